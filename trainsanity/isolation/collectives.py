"""Talk between the processes of one run, started by torchrun or accelerate.

Alone, every function here returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    pass

T = TypeVar("T")


def rank() -> int:
    """This process's number among those that torchrun started; 0 for one alone."""
    return int(os.environ.get("RANK") or 0)


def all_gather(value: T) -> list[T]:
    """What all processes have under this name, by process.  All of them have to ask."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast_from_zero(value: T) -> T:
    """What the first process has under this name.  All of them have to ask."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    values: list[Any] = [value]
    distributed.broadcast_object_list(values, src=0)
    return cast("T", values[0])


def on_rank_zero(look: Callable[[], T]) -> T:
    """What the first process's look returns or raises, on all processes; the others only wait."""
    outcome: Any = None
    if rank() == 0:
        try:
            outcome = look()
        except Exception as error:
            outcome = error
    outcome = broadcast_from_zero(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return cast("T", outcome)
