"""Which checks are judged again with a repair, and how long that is likely to take."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from trainsanity.engine.registry import registry
from trainsanity.engine.store import catalogue
from trainsanity.proofs import Repair
from trainsanity.types import Check, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

BROKEN = frozenset({Status.FAIL, Status.BLOCKED})


def all_that_cost_no_more(report: Report, repair: Repair) -> list[Check]:
    """Return the checks behind a repair, and all that cost no more, in the report's order."""
    behind = _behind(report, repair)
    most = max(check.cost for check in behind)
    return [
        result.check
        for result in report.results
        if result.check in behind or result.check.cost <= most or result.check.name == repair.then
    ]


def what_was_measured(report: Report, repair: Repair, raised: Collection[str]) -> list[Check]:
    """Return the checks behind a repair, and all that need no measurement besides theirs.

    A check of which a measurement was not taken, or raised, is left out: what it takes when it is
    taken is not known.

    Args:
        report: of the pipeline without the repair.
        repair: that a failure names.
        raised: measurements that raised.
    """
    own, known = _own(report, repair), report.measured.keys() - set(raised)
    behind = [c for c in _behind(report, repair) if c in own or _looks(c) <= known]
    chosen = [r.check for r in report.results if r.check in behind or r.check.name == repair.then]
    taken = set().union(*map(_looks, chosen))
    most = max(check.cost for check in behind)
    return [
        result.check
        for result in report.results
        if result.check in chosen
        or (result.check.cost <= most and _looks(result.check) <= taken & known)
    ]


def seconds_for(report: Report, checks: Collection[Check]) -> float:
    """Return how long these checks and their measurements took."""
    looks = set().union(*map(_looks, checks))
    own = sum(report.judged.get(check.name, 0.0) for check in checks)
    return own + sum(report.measured.get(name, 0.0) for name in looks)


def _own(report: Report, repair: Repair) -> list[Check]:
    """Return the checks that fail and name the repair."""
    return [
        result.check
        for result in report.results
        if result.status is Status.FAIL
        and any(repair in finding.repairs for finding in result.findings)
    ]


def _behind(report: Report, repair: Repair) -> list[Check]:
    """Return the checks that name the repair, and those that they explain or block."""
    own = _own(report, repair)
    broken = [result.check for result in report.results if result.status in BROKEN]
    return [c for c in broken if c in own or _stands_behind(report, c, own)]


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


def _looks(check: Check) -> set[str]:
    """Return the measurements that a check needs, those below them, and what it requires needs."""
    found: set[str] = set()
    waiting = list(check.inputs)
    while waiting:
        name = waiting.pop()
        if name != "pipeline" and name not in found:
            found.add(name)
            waiting += catalogue()[name].inputs
    return found.union(*(_looks(registry().get(name)) for name in check.requires))
