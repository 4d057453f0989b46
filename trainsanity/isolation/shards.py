"""Sharded tensors: the local part, and the whole."""

from __future__ import annotations

from typing import Any

from trainsanity.isolation.collectives import all_gather


def is_sharded(tensor: Any) -> bool:
    """Return whether this process holds only a part: FSDP2, tensor parallelism, ZeRO-3."""
    return hasattr(tensor, "to_local") or hasattr(tensor, "ds_tensor")


def local(tensor: Any) -> Any:
    """Return the part that this process holds: the tensor itself if it is not sharded."""
    if hasattr(tensor, "ds_tensor"):
        return tensor.ds_tensor.detach()
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Any) -> Any:
    """Return the whole tensor; for a sharded one all processes have to call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def added(counts: list[list[int]], sharded: list[bool]) -> list[list[int]]:
    """Sum counts over the local parts into counts over the whole tensors, by tensor."""
    if not any(sharded):
        return counts
    together = zip(*all_gather(counts), strict=True)
    return [
        [sum(column) for column in zip(*parts, strict=True)] if shared else own
        for parts, own, shared in zip(together, counts, sharded, strict=True)
    ]
