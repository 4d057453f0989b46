"""Several processes of one run: they look together, agree on each result, and one of them reports.

The engine is torch.distributed, started by torchrun or accelerate; alone, everything here returns
what it was given.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from trainsanity.errors import RankError
from trainsanity.isolation.collectives import all_gather, rank
from trainsanity.types import Result, Status

if TYPE_CHECKING:
    from trainsanity.types import Finding

T = TypeVar("T")

WORST_FIRST = (
    Status.ERROR,
    Status.FAIL,
    Status.XPASS,
    Status.BLOCKED,
    Status.XFAIL,
    Status.WARNING,
    Status.ABSTAIN,
    Status.SKIP,
    Status.PASS,
)
"""Statuses from worst to best: the worst of any process counts for all."""

PATIENCE = 30.0
"""Seconds that a process whose look raised waits for the others.  They take the same steps at the
same time, so those that are not there by then wait for it in a collective operation.  No
measurement: seconds are what torchrun's own agent takes between two looks at its processes."""


_meetings = itertools.count()
"""The processes meet at the same checks in the same order."""


def agreed(result: Result, world_size: int) -> Result:
    """The worst of all processes' results of one check, the same on every one of them.

    So that they go on in step: a check that is blocked on one process would leave the others
    waiting for it in the next collective operation.
    """
    if world_size < 2:
        return result
    _meet(result, world_size)
    # A check may be a function that only its own process can name; the rest is plain values.
    results = all_gather(replace(result, check=None))  # type: ignore[arg-type]
    worst = min(WORST_FIRST.index(seen.status) for seen in results)
    chosen = next(r for r, seen in enumerate(results) if WORST_FIRST.index(seen.status) == worst)
    shown = replace(results[chosen], check=result.check)
    alike = all(seen.status == shown.status for seen in results)
    if alike:
        return shown
    findings = tuple(_placed(finding, chosen) for finding in shown.findings)
    reason = f"process {chosen}: {shown.reason}" if shown.reason else ""
    return replace(shown, findings=findings, reason=reason)


def _meet(result: Result, world_size: int) -> None:
    """Tell the others that this process is here; after an error, wait no longer than they can take.

    Raises:
        RankError: this process's look raised, and the others wait for it somewhere else.
    """
    from torch.distributed.distributed_c10d import _get_default_store

    # The store that the processes met in is no collective operation: it answers whatever the
    # others are doing.  torch has no public way to it.
    store = _get_default_store()
    here = f"trainsanity/{next(_meetings)}"
    there = store.add(here, 1)
    if result.status is not Status.ERROR:
        return
    until = time.monotonic() + PATIENCE
    while there < world_size:
        if time.monotonic() > until:
            raise RankError(
                f"process {rank()} failed and the others wait for it, so there is no report: "
                f"{result.check.code} {result.check.name}: {result.reason}"
            )
        time.sleep(0.1)
        there = store.add(here, 0)


def _placed(finding: Finding, number: int) -> Finding:
    where = f"process {number}" + (f", {finding.where}" if finding.where else "")
    return replace(finding, where=where)
