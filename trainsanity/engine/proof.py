"""Try the repairs that findings name: applied, judged again, put back.

A cause that its own repair refuted is not told any more; of several the proved one is.  Where
nobody asked for proofs, only those are tried that cost less than judging did.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trainsanity.engine.asked_again import all_that_cost_no_more, seconds_for, what_was_measured
from trainsanity.engine.runner import Runner
from trainsanity.engine.session import Session
from trainsanity.engine.trial import Trial, failures_of, judged
from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.collectives import several_processes
from trainsanity.isolation.fingerprint import StateChanged, guarded
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.random_states import global_random_states
from trainsanity.proofs import Proof, Proved, Repair
from trainsanity.repairs import CannotApply, ChangesNothing, applied
from trainsanity.types import Check, Cost, Finding, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.pipeline import Pipeline

TOLD_FIRST = (Proved.PROVED, Proved.UNPROVED, Proved.UNTRIED, Proved.REFUTED)
"""Of several repairs of one finding, which is told."""


def proved(
    pipeline: Pipeline,
    report: Report,
    on_repair: Callable[[str], None] = lambda words: None,
    timeout: float | None = None,
) -> Report:
    """Return the report with a proof beside each failure: proved, refuted, not proved or not tried.

    The checks that fail, and those that are blocked by them or explained, are judged again with
    each repair, and all that passed and cost no more.

    Args:
        pipeline: that the report is about; it is as before afterwards.
        report: without proofs.
        on_repair: called with each repair's words before it is tried.
        timeout: seconds that a check, and each measurement, may take.
    """
    return _with_trials(pipeline, report, on_repair, timeout, left=None)


def proved_if_cheap(
    pipeline: Pipeline,
    report: Report,
    on_repair: Callable[[str], None] = lambda words: None,
    timeout: float | None = None,
) -> Report:
    """Return the report with the proofs that together take no longer than judging did.

    What is judged again with a repair is what it explains, and all that the same measurements
    answer: how long these took is known.  Judging once more is the bound, so that no run takes
    twice as long: on the tiny incident a proof takes about half as long as judging.  What was not
    tried is told only where that is the reason.

    Args:
        pipeline: as for :func:`proved`.
        report: likewise.
        on_repair: likewise.
        timeout: likewise.
    """
    return _with_trials(pipeline, report, on_repair, timeout, left=report.seconds)


def _with_trials(
    pipeline: Pipeline,
    report: Report,
    on_repair: Callable[[str], None],
    timeout: float | None,
    left: float | None,
) -> Report:
    """Try the repairs, in so many seconds or, if that is None, in as many as it takes."""
    failed = [result for result in report.results if result.status is Status.FAIL]
    if not failed:
        return report
    cheap = left is not None
    trials: dict[Repair, Trial] = {}
    if several_processes() or (report.facts.get("world_size") or 1) > 1:
        why = "repairs are tried on one process only"
        trials = {one: Trial(one, {}, why, begun=False) for one in _repairs(failed)}
    lost = ""
    for repair in _repairs(failed):
        if repair in trials:
            continue
        if lost:
            trials[repair] = Trial(repair, {}, lost)
            continue
        if _needless(repair, report, trials):
            trials[repair] = Trial(repair, {}, "another repair is proved")
            continue
        asked = (
            what_was_measured(report, repair, Session.of(pipeline).measurements.raised)
            if cheap
            else all_that_cost_no_more(report, repair)
        )
        if left is not None and (needed := seconds_for(report, asked)) > left:
            why = f"it takes about {max(needed, 1):.0f} s; --prove-fix tries it"
            trials[repair] = Trial(repair, {}, why)
            continue
        on_repair(repair.words)
        start = time.perf_counter()
        try:
            trials[repair] = _tried(pipeline, report, repair, asked, timeout)
        except StateChanged as error:
            # What is tried after that would be tried on another pipeline.
            lost = f"{error}: nothing could be tried after that"
            trials[repair] = Trial(repair, {}, lost)
        if left is not None:
            left -= time.perf_counter() - start
    refuted = {one for one in trials if _refuted(one, failed, report, trials)}
    results = tuple(
        _with_proofs(result, report, trials, all_of_them=not cheap)
        if result.status is Status.FAIL
        else _untold(result, refuted)
        for result in report.results
    )
    return replace(report, results=results)


def _refuted(
    repair: Repair, failed: Sequence[Result], report: Report, trials: Mapping[Repair, Trial]
) -> bool:
    """Return whether a repair mends none of the failures that name it."""
    named = ((f, result) for result in failed for f in failures_of(result) if repair in f.repairs)
    return all(judged(*one, report, trials[repair]).status is Proved.REFUTED for one in named)


def _untold(result: Result, refuted: Collection[Repair]) -> Result:
    """Return a result that another explains without causes that were refuted there."""
    if result.status is not Status.BLOCKED:
        return result
    findings = tuple(
        replace(finding, cause=None, fix=None, candidates=())
        if finding.repairs and all(one in refuted for one in finding.repairs)
        else finding
        for finding in result.findings
    )
    return replace(result, findings=findings)


def _repairs(failed: Sequence[Result]) -> list[Repair]:
    """Return each repair once, those of the first failure first."""
    ordered = sorted(failed, key=lambda result: result.check.order)
    found = (repair for result in ordered for f in failures_of(result) for repair in f.repairs)
    return list(dict.fromkeys(found))


def _needless(repair: Repair, report: Report, trials: Mapping[Repair, Trial]) -> bool:
    """Return whether all that name a repair are proved to be mended by another."""
    return all(
        any(
            judged(finding, result, report, trials[other]).status is Proved.PROVED
            for other in finding.repairs
            if other in trials
        )
        for result in report.results
        for finding in result.findings
        if result.status is Status.FAIL and repair in finding.repairs
    )


def _tried(
    pipeline: Pipeline,
    report: Report,
    repair: Repair,
    asked: Sequence[Check],
    timeout: float | None,
) -> Trial:
    """Apply one repair, judge these checks again, and put the pipeline back.

    Raises:
        StateChanged: it could not be put back.
    """
    if pipeline.captured is not None and _needs_steps(report, repair):
        why = "a script's own loop has run and cannot be asked again with it"
        return Trial(repair, {}, why, begun=False)
    try:
        with (
            guarded(pipeline, f"the repair {repair.words!r}", {}),
            contextlib.ExitStack() as undo,
            _another_session(pipeline),
            applied(repair, pipeline),
        ):
            undo.callback(global_random_states())
            runner = Runner(pipeline, timeout=timeout)
            return Trial(repair, {check.name: runner.result(check) for check in asked})
    except StateChanged:
        raise
    except ChangesNothing as error:
        return Trial(repair, {}, str(error), changes_nothing=True)
    except CannotApply as error:
        return Trial(repair, {}, str(error), begun=False)
    except (Exception, SystemExit) as error:
        if out_of_memory(error) is not None:
            give_back(error)
        plain = str(error) if isinstance(error, UsageError) else first_line(error)
        return Trial(repair, {}, f"it could not be tried ({type(error).__name__}: {plain})")


def _needs_steps(report: Report, repair: Repair) -> bool:
    """Return whether a check that names the repair looks at recorded steps."""
    named = (r for r in report.results if any(repair in f.repairs for f in r.findings))
    return any(result.check.cost >= Cost.STEP for result in named)


@contextlib.contextmanager
def _another_session(pipeline: Pipeline) -> Iterator[None]:
    """Have everything measured anew, and keep what was measured before."""
    session, heard = pipeline.session, list(pipeline.library_warnings)
    pipeline.session = None
    try:
        yield
    finally:
        pipeline.session = session
        pipeline.library_warnings[:] = heard


def _with_proofs(
    result: Result, report: Report, trials: Mapping[Repair, Trial], *, all_of_them: bool
) -> Result:
    """Return a failure's findings with their proofs, or only with those of which one was tried."""
    findings = []
    for finding in result.findings:
        proved_one = finding
        if finding.severity is not Severity.WARNING:
            proved_one = _with_proof(finding, result, report, trials)
        proof = proved_one.proof
        tried = any(trials[one].begun for one in finding.repairs)
        told = all_of_them or tried or (proof and proof.status is not Proved.UNTRIED)
        findings.append(proved_one if told else finding)
    return replace(result, findings=tuple(findings))


def _with_proof(
    finding: Finding, result: Result, report: Report, trials: Mapping[Repair, Trial]
) -> Finding:
    seen = [(one, judged(finding, result, report, trials[one])) for one in finding.repairs]
    for repair, proof in seen:
        if proof.status is Proved.PROVED:
            cause, fix = repair.cause or finding.cause, repair.fix or finding.fix
            return replace(finding, proof=proof, cause=cause, fix=fix)
    elsewhere = _gone_elsewhere(finding, result, report, trials)
    if seen and all(proof.status is Proved.REFUTED for _, proof in seen):
        sentence = " ".join(proof.sentence for _, proof in seen)
        refuted = replace(seen[-1][1], sentence=sentence)
        return replace(finding, proof=elsewhere or refuted, cause=None, fix=None, candidates=())
    if elsewhere is not None:
        return replace(finding, proof=elsewhere)
    if not seen:
        return replace(finding, proof=Proof(Proved.UNTRIED, "no repair of it can be applied here"))
    shown = min((proof for _, proof in seen), key=lambda proof: TOLD_FIRST.index(proof.status))
    others = [p.sentence for _, p in seen if p.status is Proved.REFUTED]
    return replace(finding, proof=replace(shown, sentence=" ".join([shown.sentence, *others])))


def _gone_elsewhere(
    finding: Finding, result: Result, report: Report, trials: Mapping[Repair, Trial]
) -> Proof | None:
    """Return the proof by a repair of another finding with which this one is gone, too."""
    for repair, trial in trials.items():
        if repair in finding.repairs or result.check.name not in trial.results:
            continue
        proof = judged(finding, result, report, trial)
        owners = [
            judged(f, other, report, trial).status
            for other in report.results
            if other.status is Status.FAIL
            for f in other.findings
            if repair in f.repairs
        ]
        if proof.status is Proved.PROVED and Proved.PROVED in owners:
            return proof
    return None
