"""Several processes of one run: they look together, agree on each result, and one of them reports.

The engine is torch.distributed, started by torchrun or accelerate; alone, everything here returns
what it was given.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .types import Result, Status

if TYPE_CHECKING:
    from .types import Finding

WORST_FIRST = (
    Status.ERROR,
    Status.FAIL,
    Status.BLOCKED,
    Status.ABSTAIN,
    Status.SKIP,
    Status.PASS,
)
"""What one process did not see, another may have seen: the worst counts for all."""


def rank() -> int:
    """This process's number among those that torchrun started; 0 for one alone."""
    return int(os.environ.get("RANK") or 0)


def agreed(result: Result, world_size: int) -> Result:
    """The worst of all processes' results of one check, the same on every one of them.

    So that they go on in step: a check that is blocked on one process would leave the others
    waiting for it in the next collective operation.
    """
    if world_size < 2:
        return result
    import torch.distributed

    everyone: list[Any] = [None] * world_size
    # A check may be a function that only its own process can name; the rest is plain values.
    torch.distributed.all_gather_object(everyone, replace(result, check=None))  # type: ignore[arg-type]
    results: list[Result] = everyone
    worst = min(WORST_FIRST.index(seen.status) for seen in results)
    chosen = next(r for r, seen in enumerate(results) if WORST_FIRST.index(seen.status) == worst)
    shown = replace(results[chosen], check=result.check)
    alike = all(seen.status == shown.status for seen in results)
    if alike:
        return shown
    findings = tuple(_placed(finding, chosen) for finding in shown.findings)
    reason = f"process {chosen}: {shown.reason}" if shown.reason else ""
    return replace(shown, findings=findings, reason=reason)


def _placed(finding: Finding, number: int) -> Finding:
    where = f"process {number}" + (f", {finding.where}" if finding.where else "")
    return replace(finding, where=where)
