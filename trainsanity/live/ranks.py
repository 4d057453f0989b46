"""Sums over the processes of a run."""

from __future__ import annotations

from typing import Any

from trainsanity.isolation.collectives import added_up


def summed(values: list[float], device: Any) -> list[float]:
    """Return the sums over all processes, all of which have to call it in the same order."""
    import torch

    if not several():
        return values
    total = added_up(torch.tensor(values, dtype=torch.float64, device=device))
    return [float(value) for value in total.tolist()]


def several() -> bool:
    """Return whether the run has more than one process."""
    import torch

    distributed = torch.distributed
    return bool(
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
