"""Exchange values between the processes of one run, started by torchrun or accelerate.

In a single process every function returns what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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


def served(device: Any) -> Any:
    """Return the device if the processes exchange its tensors, else one whose they do.

    NCCL takes those of accelerators alone, gloo those of all devices.
    """
    import torch
    from torch import distributed

    # "cuda:nccl", "cpu:gloo,cuda:nccl"; the backend's name alone does not tell: "undefined".
    pairs = str(distributed.get_backend_config()).split(",")
    kinds = [pair.partition(":")[0] for pair in pairs]
    wanted = torch.device(device)
    return wanted if wanted.type in kinds else torch.device(kinds[0])


def overwritten_from_zero(tensors: Iterable[Any]) -> None:
    """Give each tensor rank 0's values, in place.  All processes have to call it."""
    from torch import distributed

    for tensor in tensors:
        own = tensor.detach()
        sent = own.to(served(own.device))
        distributed.broadcast(sent, src=0)
        if sent is not own:
            own.copy_(sent)


def added_up(tensor: Any) -> Any:
    """Return the sum of the processes' tensors, on its device.  All have to call it."""
    from torch import distributed

    total = tensor.detach().to(served(tensor.device), copy=True)
    distributed.all_reduce(total)
    return total.to(tensor.device)


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
