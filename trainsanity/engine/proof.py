"""Try the repairs that findings name: applied, judged again, put back.

A cause that its own repair refuted is not told any more; of several the proved one is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.runner import Runner
from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.fingerprint import StateChanged, guarded
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.random_states import global_random_states
from trainsanity.repairs import CannotApply, ChangesNothing, applied
from trainsanity.types import Check, Cost, Finding, Proof, Proved, Repair, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.pipeline import Pipeline

GOOD = frozenset({Status.PASS, Status.WARNING})
BROKEN = frozenset({Status.FAIL, Status.BLOCKED})

TOLD_FIRST = (Proved.PROVED, Proved.UNPROVED, Proved.UNTRIED, Proved.REFUTED)
"""Of several repairs of one finding, which is told."""


@dataclass(frozen=True)
class _Trial:
    """What came of one repair: results by check, or why there are none."""

    repair: Repair
    results: Mapping[str, Result]
    why: str = ""
    changes_nothing: bool = False


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
    failed = [result for result in report.results if result.status is Status.FAIL]
    if not failed:
        return report
    trials: dict[Repair, _Trial] = {}
    if (report.facts.get("world_size") or 1) > 1:
        why = "repairs are tried on one process only"
        trials = {one: _Trial(one, {}, why) for one in _repairs(failed)}
    lost = ""
    for repair in _repairs(failed):
        if repair in trials:
            continue
        if lost:
            trials[repair] = _Trial(repair, {}, lost)
            continue
        if _needless(repair, report, trials):
            trials[repair] = _Trial(repair, {}, "another repair is proved")
            continue
        on_repair(repair.words)
        try:
            trials[repair] = _tried(pipeline, report, repair, timeout)
        except StateChanged as error:
            # What is tried after that would be tried on another pipeline.
            lost = f"{error}: nothing could be tried after that"
            trials[repair] = _Trial(repair, {}, lost)
    refuted = {one for one in trials if _refuted(one, failed, report, trials)}
    results = tuple(
        _with_proofs(result, report, trials)
        if result.status is Status.FAIL
        else _untold(result, refuted)
        for result in report.results
    )
    return replace(report, results=results)


def _refuted(
    repair: Repair, failed: Sequence[Result], report: Report, trials: Mapping[Repair, _Trial]
) -> bool:
    """Return whether a repair mends none of the failures that name it."""
    named = ((f, result) for result in failed for f in _failures(result) if repair in f.repairs)
    return all(_judged(*one, report, trials[repair]).status is Proved.REFUTED for one in named)


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
    found = (repair for result in ordered for f in _failures(result) for repair in f.repairs)
    return list(dict.fromkeys(found))


def _needless(repair: Repair, report: Report, trials: Mapping[Repair, _Trial]) -> bool:
    """Return whether all that name a repair are proved to be mended by another."""
    return all(
        any(
            _judged(finding, result, report, trials[other]).status is Proved.PROVED
            for other in finding.repairs
            if other in trials
        )
        for result in report.results
        for finding in result.findings
        if result.status is Status.FAIL and repair in finding.repairs
    )


def _failures(result: Result) -> list[Finding]:
    return [finding for finding in result.findings if finding.severity is Severity.FAILURE]


def _tried(pipeline: Pipeline, report: Report, repair: Repair, timeout: float | None) -> _Trial:
    """Apply one repair, judge again, and put the pipeline back.

    Raises:
        StateChanged: it could not be put back.
    """
    if pipeline.captured is not None and _needs_steps(report, repair):
        why = "a script's own loop has run and cannot be asked again with it"
        return _Trial(repair, {}, why)
    try:
        with (
            guarded(pipeline, f"the repair {repair.words!r}", {}),
            contextlib.ExitStack() as undo,
            _another_session(pipeline),
            applied(repair, pipeline),
        ):
            undo.callback(global_random_states())
            runner = Runner(pipeline, timeout=timeout)
            return _Trial(repair, {c.name: runner.result(c) for c in _asked(report, repair)})
    except StateChanged:
        raise
    except ChangesNothing as error:
        return _Trial(repair, {}, str(error), changes_nothing=True)
    except CannotApply as error:
        return _Trial(repair, {}, str(error))
    except (Exception, SystemExit) as error:
        if out_of_memory(error) is not None:
            give_back(error)
        plain = str(error) if isinstance(error, UsageError) else first_line(error)
        return _Trial(repair, {}, f"it could not be tried ({type(error).__name__}: {plain})")


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


def _asked(report: Report, repair: Repair) -> list[Check]:
    """Return the checks that are judged again, in the report's order."""
    own = [
        result.check
        for result in report.results
        if result.status is Status.FAIL
        and any(repair in finding.repairs for finding in result.findings)
    ]
    broken = [result.check for result in report.results if result.status in BROKEN]
    behind = [c for c in broken if c in own or _stands_behind(report, c, own)]
    most = max(check.cost for check in behind)
    return [
        result.check
        for result in report.results
        if result.check in behind or result.check.cost <= most or result.check.name == repair.then
    ]


def _stands_behind(report: Report, check: Check, own: Sequence[Check]) -> bool:
    """Return whether a check is blocked by one of ``own``, directly or not."""
    by_name = {result.check.name: result for result in report.results}
    names, seen = {one.name for one in own}, set()
    name: str | None = check.name
    while name in by_name and name not in seen:
        seen.add(name)
        name = by_name[name].blocked_by
        if name in names:
            return True
    return False


def _with_proofs(result: Result, report: Report, trials: Mapping[Repair, _Trial]) -> Result:
    findings = tuple(
        finding
        if finding.severity is Severity.WARNING
        else _with_proof(finding, result, report, trials)
        for finding in result.findings
    )
    return replace(result, findings=findings)


def _with_proof(
    finding: Finding, result: Result, report: Report, trials: Mapping[Repair, _Trial]
) -> Finding:
    seen = [(one, _judged(finding, result, report, trials[one])) for one in finding.repairs]
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
    finding: Finding, result: Result, report: Report, trials: Mapping[Repair, _Trial]
) -> Proof | None:
    """Return the proof by a repair of another finding with which this one is gone, too."""
    for repair, trial in trials.items():
        if repair in finding.repairs or result.check.name not in trial.results:
            continue
        proof = _judged(finding, result, report, trial)
        owners = [
            _judged(f, other, report, trial).status
            for other in report.results
            if other.status is Status.FAIL
            for f in other.findings
            if repair in f.repairs
        ]
        if proof.status is Proved.PROVED and Proved.PROVED in owners:
            return proof
    return None


def _judged(finding: Finding, result: Result, report: Report, trial: _Trial) -> Proof:
    """Return what a trial shows about one finding."""
    words = trial.repair.words
    if trial.changes_nothing:
        sentence = f"{words} changes nothing here: {trial.why}."
        return Proof(Proved.REFUTED, sentence, words, finding.observed, finding.observed)
    if trial.why or result.check.name not in trial.results:
        return Proof(Proved.UNTRIED, f"{words}: {trial.why or 'not judged with it'}", words)
    new = trial.results[result.check.name]
    instead = trial.results.get(trial.repair.then or "")
    if new.status is Status.SKIP and instead is not None and instead.status in GOOD:
        return _judged_by_another(finding, report, trial, instead)
    if new.status not in (*GOOD, Status.FAIL) and not new.findings:
        sentence = f"with {words} the check has no verdict: {new.reason}"
        return Proof(Proved.UNTRIED, sentence, words, finding.observed)
    green, red = _turned(report, trial)
    still = [shape(f.headline) for f in _failures(new)]
    others = [shape(f.headline) for f in _failures(result) if f is not finding]
    here = next((f for f in _failures(new) if shape(f.headline) == shape(finding.headline)), None)
    after = new.observed if here is None else here.observed
    proof = Proof(Proved.REFUTED, "", words, finding.observed, after, green, red)
    became = _became(finding.observed, after)
    if here is not None or any(one not in others for one in still):
        other = "" if here is not None else f": {_failures(new)[0].headline}"
        found = became or f"it still fails{other}"
        found += ", which still fails" if became else ""
        return replace(proof, sentence=f"with {words} {found}.")
    turned = f"{len(green)} {'check turns' if len(green) == 1 else 'checks turn'} green"
    told = f"with {words} {became or 'it is gone'}; {turned}"
    if red:
        sentence = f"{told}, but {', '.join(red)} red, which did not fail."
        return replace(proof, status=Proved.UNPROVED, sentence=sentence)
    return replace(proof, status=Proved.PROVED, sentence=f"{told}, none red.")


def _judged_by_another(finding: Finding, report: Report, trial: _Trial, instead: Result) -> Proof:
    """Return the proof where a check does not apply to what the repair puts in its place."""
    words, code = trial.repair.words, instead.check.code
    green, red = _turned(report, trial)
    told = f"with {words} the check does not apply, and {code} passes"
    proof = Proof(Proved.PROVED, "", words, finding.observed, None, green, red)
    if red:
        sentence = f"{told}, but {', '.join(red)} red, which did not fail."
        return replace(proof, status=Proved.UNPROVED, sentence=sentence)
    return replace(proof, sentence=f"{told}; none turns red.")


def _turned(report: Report, trial: _Trial) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codes of the checks that turned green, and of those that turned red.

    One that did not apply and fails with the repair has turned red as well.
    """
    green, red = [], []
    for before in report.results:
        after = trial.results.get(before.check.name)
        if after is None:
            continue
        if before.status in BROKEN and after.status in GOOD:
            green.append(before.check.code)
        elif before.status in (*GOOD, Status.SKIP) and after.status in (Status.FAIL, Status.ERROR):
            red.append(before.check.code)
    return tuple(green), tuple(red)


_NUMBER = re.compile(r"-?\d[\d,.]*(e[+-]?\d+)?|\bnan\b|\binf\b")


def shape(headline: str) -> str:
    """Return a finding's headline without its numbers, by which it is known again."""
    return _NUMBER.sub("#", headline)


def _became(before: Any, after: Any) -> str:
    """Return "68.148 becomes 5.679" where both are one number; empty otherwise."""
    numbers = [one for one in (before, after) if isinstance(one, float | int)]
    if len(numbers) < 2 or any(isinstance(one, bool) for one in numbers):
        return ""
    shown = [_short(one) for one in numbers]
    return f"{shown[0]} stays" if shown[0] == shown[1] else f"{shown[0]} becomes {shown[1]}"


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.5g}"
