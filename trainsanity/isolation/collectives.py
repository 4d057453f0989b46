"""Exchange values between the processes of one run, started by torchrun or accelerate.

In a single process every function returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def rank() -> int:
    """Return this process's rank, as torchrun set it; 0 for a single process."""
    return int(os.environ.get("RANK") or 0)


def several_processes() -> bool:
    """Return whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def all_gather(value: T) -> list[T]:
    """Return every process's value, by rank.  All processes have to call it."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast_from_zero(value: T) -> T:
    """Return rank 0's value.  All processes have to call it."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    values: list[Any] = [value]
    distributed.broadcast_object_list(values, src=0)
    return cast("T", values[0])


def on_rank_zero(compute: Callable[[], T]) -> T:
    """Call ``compute`` on rank 0 only; return what it returned, or raise it, on all processes."""
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = compute()
        except Exception as error:
            outcome = error
    outcome = broadcast_from_zero(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return cast("T", outcome)
