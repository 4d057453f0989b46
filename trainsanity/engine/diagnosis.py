"""Read results together: where it broke first, what that explains, which suspects are ruled out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from trainsanity.proofs import Proved
from trainsanity.types import Check, Finding, Result, Severity, Status

SAME_FACTOR = 0.02
"""How much of a deviation, on a log scale, may stay unexplained for two factors to count as one.
Known factors of a run are ratios of small integers and lie further apart.  The factors of one
defect, seen in the logged loss and in a gradient, agree to 1e-4 in float32; in bfloat16 to 0.3 %
(12.0284 for 12 on an H100), which is 0.1 % of log 12."""


@dataclass(frozen=True)
class Diagnosis:
    """The reading of a report.

    Attributes:
        first_broken_stage: the earliest stage with a failure that is not accepted, or None.
        finding: the first finding there.
        result: the result that it belongs to.
        explained: results that the first failure accounts for.
        ruled_out: suspect to the sentences, with numbers, that rule it out.
        confidence: how sure the cause is, in words; empty if nothing is broken.
    """

    first_broken_stage: str | None
    result: Result | None
    finding: Finding | None
    explained: tuple[Result, ...]
    ruled_out: dict[str, tuple[str, ...]]
    confidence: str = ""


def explained_by(failed: Result, earlier: Iterable[Result]) -> tuple[Result, str] | None:
    """Return the earlier failure that accounts for every failure of ``failed``, and by what."""
    for other in filter(fails, earlier):
        if same_factor(failed, other):
            return other, f"the same factor {other.factor:.2f}"
        if same_cause(failed, other):
            return other, "the same cause"
        if same_repair(failed, other):
            return other, f"the same repair, {failed.findings[0].repairs[0].words}"
    return None


def fails(result: Result) -> bool:
    """Return whether it failed, accepted or not; a warning explains nothing."""
    failed = result.status in (Status.FAIL, Status.XFAIL)
    return failed and result.findings[0].severity is Severity.FAILURE


def same_factor(failed: Result, other: Result) -> bool:
    """Return whether each failure of a result has the factor of another's first."""
    if other.factor is None:
        return False
    return all(_same(finding.factor, other.factor) for finding in _failures(failed))


def same_cause(failed: Result, other: Result) -> bool:
    """Return whether each failure of a result has a cause of another's, as far as the colon."""
    causes = {(finding.cause or "").partition(":")[0] for finding in _failures(other)} - {""}
    return all((f.cause or "").partition(":")[0] in causes for f in _failures(failed))


def same_repair(failed: Result, other: Result) -> bool:
    """Return whether each failure of a result has for its only repair one of another's first."""
    mended = {(one.kind, one.arguments) for one in other.findings[0].repairs}
    each = [[(one.kind, one.arguments) for one in f.repairs] for f in _failures(failed)]
    return bool(each) and all(len(own) == 1 and own[0] in mended for own in each)


def _failures(result: Result) -> list[Finding]:
    return [f for f in result.findings if f.severity is Severity.FAILURE]


def _same(one: float | None, other: float) -> bool:
    if one is None or not (one > 0 and other > 0):
        return False
    return abs(math.log(one / other)) <= SAME_FACTOR * abs(math.log(other))


def diagnose(
    results: Sequence[Result],
    unasked: Iterable[Check] = (),
    *,
    of_a_log: bool = False,
) -> Diagnosis:
    """Read the results in stage order.

    Args:
        results: of the checks that were selected.
        unasked: the other checks; a suspect that one of them would rule out is not ruled out.
        of_a_log: only the run's log was seen, which shows that something is wrong and never
            proves why.
    """
    failures = sorted((r for r in results if r.status is Status.FAIL), key=lambda r: r.check.order)
    first = failures[0] if failures else None
    explained = tuple(r for r in results if r.status is Status.BLOCKED)
    return Diagnosis(
        first_broken_stage=first.check.stage if first else None,
        result=first,
        finding=first.findings[0] if first else None,
        explained=explained,
        ruled_out=_ruled_out(results, {check.rules_out for check in unasked}),
        confidence=_confidence(first.findings[0], explained, of_a_log) if first else "",
    )


def _confidence(finding: Finding, explained: Iterable[Result], of_a_log: bool) -> str:
    """Return how sure the cause is; that something is broken was measured, why was concluded."""
    names = finding.candidates
    if finding.proof is not None and finding.proof.status is Proved.PROVED:
        tried = "the fix is proved, by trying it"
        if len(names) == 1:
            return f"{_fitting(finding, explained)}; {tried}"
        return f"{tried}; why it was needed is concluded"
    if finding.proof is not None and finding.proof.status is Proved.REFUTED:
        return "open: what seemed to be the cause was tried, and it is not that"
    if len(names) > 1:
        return f"open between {len(names)} that fit equally well"
    if of_a_log:
        why = f"only {names[0]} fits, which a log cannot prove" if names else ""
        return f"likely: {why}" if why else "open: a log shows that something is wrong, not why"
    if names:
        return _fitting(finding, explained)
    if finding.cause:
        return "likely: what is wrong was measured, why is concluded"
    if finding.factor is None:
        return "open: what is wrong was measured, the cause is not known"
    return f"open: the factor {finding.factor:.2f} is no known quantity of the run"


def _fitting(finding: Finding, explained: Iterable[Result]) -> str:
    """Return how sure it is that the only quantity that fits is the cause."""
    name = finding.candidates[0]
    others = [r.check.code for r in explained if _same(r.factor, finding.factor or 0.0)]
    also = f"; {finding.tested}" if finding.tested else ""
    if not others:
        return f"good: only {name} fits{also}"
    shows = f"{others[0]} shows" if len(others) == 1 else (
        f"{', '.join(others[:-1])} and {others[-1]} show"
    )  # fmt: skip
    return f"high: only {name} fits, and {shows} the same factor{also}"


def _ruled_out(
    results: Sequence[Result], undecided: Collection[str | None]
) -> dict[str, tuple[str, ...]]:
    """Return the suspects of which every check that can rule them out passed."""
    by_suspect: dict[str, list[Result]] = {}
    for result in results:
        if result.check.rules_out:
            by_suspect.setdefault(result.check.rules_out, []).append(result)
    return {
        suspect: tuple(r.message for r in about)
        for suspect, about in by_suspect.items()
        if suspect not in undecided and all(r.status is Status.PASS for r in about)
    }
