"""Tensors that several processes hold in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.isolation.collectives import all_gather

if TYPE_CHECKING:
    pass


def is_sharded(tensor: Any) -> bool:
    """Whether this process holds a part of it, as FSDP2 and tensor parallelism have it."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Any:
    """The part of it that this process holds: the tensor itself if it is whole."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Any) -> Any:
    """All of it; of a sharded tensor all processes have to ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def added(counts: list[list[int]], sharded: list[bool]) -> list[list[int]]:
    """Counts over the own parts as counts over the whole tensors, by tensor."""
    if not any(sharded):
        return counts
    together = zip(*all_gather(counts), strict=True)
    return [
        [sum(column) for column in zip(*parts, strict=True)] if shared else own
        for parts, own, shared in zip(together, counts, sharded, strict=True)
    ]
