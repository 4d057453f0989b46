"""What the results mean together: where it broke first, what that explains, who is innocent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .types import STAGES, Finding, Result, Status

SAME_FACTOR = 0.01
"""Relative difference below which two factors count as one.  Known factors of one run are ratios of
small integers and lie further apart; the factors of one defect, seen in the logged loss (four
decimals) and in a gradient, agree to about 1e-4."""


@dataclass(frozen=True)
class Diagnosis:
    """The reading of a report.

    Attributes:
        first_broken_stage: the earliest stage with a failure, or None.
        finding: the first finding there.
        result: the result that it belongs to.
        explained: results that the first failure accounts for.
        acquitted: suspect to the sentences, with numbers, that clear it.
    """

    first_broken_stage: str | None
    result: Result | None
    finding: Finding | None
    explained: tuple[Result, ...]
    acquitted: dict[str, tuple[str, ...]]


def explained_by(failed: Result, earlier: Iterable[Result]) -> Result | None:
    """The earlier failure that shows the same factor in every finding of ``failed``."""
    for other in earlier:
        if other.status not in (Status.FAIL, Status.XFAIL) or other.factor is None:
            continue
        factors = [finding.factor for finding in failed.findings]
        if all(f is not None and abs(f / other.factor - 1) <= SAME_FACTOR for f in factors):
            return other
    return None


def diagnose(results: Sequence[Result]) -> Diagnosis:
    """Read the results in stage order."""
    failures = sorted(
        (r for r in results if r.status in (Status.FAIL, Status.XFAIL)),
        key=lambda r: (r.status is Status.XFAIL, STAGES.index(r.check.stage), r.check.code),
    )
    first = failures[0] if failures else None
    return Diagnosis(
        first_broken_stage=first.check.stage if first else None,
        result=first,
        finding=first.findings[0] if first else None,
        explained=tuple(r for r in results if r.status is Status.BLOCKED),
        acquitted=_acquitted(results),
    )


def _acquitted(results: Sequence[Result]) -> dict[str, tuple[str, ...]]:
    """A suspect is cleared when every check that speaks for it passed."""
    spoken: dict[str, list[Result]] = {}
    for result in results:
        if result.check.acquits:
            spoken.setdefault(result.check.acquits, []).append(result)
    return {
        suspect: tuple(r.message for r in about)
        for suspect, about in spoken.items()
        if all(r.status is Status.PASS for r in about)
    }
