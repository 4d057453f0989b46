"""Sharded tensors: the local part, and the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainsanity.isolation.collectives import all_gather

ENGINES = ("deepspeed.", "torch.distributed.")
"""Packages whose hooks give a module its weights; without the engine they have none to give."""


def is_sharded(tensor: Any) -> bool:
    """Return whether this process holds only a part: FSDP2, tensor parallelism, ZeRO-3."""
    return hasattr(tensor, "to_local") or hasattr(tensor, "ds_tensor")


def local(tensor: Any) -> Any:
    """Return the part that this process holds: the tensor itself if it is not sharded."""
    if hasattr(tensor, "ds_tensor"):
        return tensor.ds_tensor.detach()
    return tensor.to_local() if is_sharded(tensor) else tensor


def local_as(tensor: Any, other: Any) -> Any:
    """Return of a tensor the part that this process holds of another of the same shape.

    Under tensor parallelism a gradient may lie whole where its weight is in parts; all processes
    have to call it.
    """
    placements = getattr(other, "placements", None)
    if placements is not None and getattr(tensor, "placements", placements) != placements:
        tensor = tensor.redistribute(other.device_mesh, placements)
    return local(tensor)


def whole(tensor: Any) -> Any:
    """Return the whole tensor; for a sharded one all processes have to call it."""
    if hasattr(tensor, "ds_tensor"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the shape of the whole tensor."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))


def in_parts(model: Any) -> bool:
    """Return whether each process holds a part of the model's weights."""
    return any(is_sharded(parameter) for parameter in model.parameters())


def made_in_parts(model: Any) -> bool:
    """Return whether DeepSpeed has put parts in the place of weights (``deepspeed.zero.Init``)."""
    return any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())


def computed_in_parts(model: Any) -> bool:
    """Return whether forwards compute with parts: tensor parallelism, where nothing gathers them.

    FSDP2 and ZeRO-3 gather a layer's weights before it runs, and on a mesh of both FSDP2 gathers
    the parts alone.
    """
    if any("tp" in (_dimensions(parameter) or ()) for parameter in model.parameters()):
        return True
    gathers = made_in_parts(model) or any(
        callable(getattr(module, "reshard", None)) for module in model.modules()
    )
    return in_parts(model) and not gathers


def _dimensions(tensor: Any) -> tuple[str, ...] | None:
    """Return the names of the mesh's dimensions, in the words of accelerate and transformers."""
    mesh = getattr(tensor, "device_mesh", None)
    names: tuple[str, ...] | None = getattr(mesh, "mesh_dim_names", None)
    return names


def resharded(model: Any) -> None:
    """Have FSDP2 drop what a forward gathered: without a backward pass it keeps some whole."""
    for module in model.modules():
        if hasattr(type(module), "reshard"):  # FSDP2 gives a module a class of its own
            module.reshard()


def of_engine(hook: Any) -> bool:
    """Return whether DeepSpeed or torch's FSDP registered a hook, to fetch and drop weights."""
    held = getattr(hook, "func", hook)
    owner = getattr(held, "__self__", held)
    name = getattr(type(owner) if owner is not held else owner, "__module__", "") or ""
    return name.startswith(ENGINES)


@contextmanager
def engine_hooks_off(model: Any) -> Iterator[None]:
    """Take the hooks off by which an engine gathers weights, and put them back in their places."""
    held = [
        (hooks, dict(hooks))
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        if any(of_engine(hook) for hook in hooks.values())
    ]
    for hooks, before in held:
        for number, hook in before.items():
            if of_engine(hook):
                del hooks[number]
    try:
        yield
    finally:
        for hooks, before in held:
            added = {number: hook for number, hook in hooks.items() if number not in before}
            hooks.clear()
            hooks.update(before | added)


def added(counts: list[list[int]], sharded: list[bool]) -> list[list[int]]:
    """Sum counts over the local parts into counts over the whole tensors, by tensor."""
    if not any(sharded):
        return counts
    together = zip(*all_gather(counts), strict=True)
    return [
        [sum(column) for column in zip(*parts, strict=True)] if shared else own
        for parts, own, shared in zip(together, counts, sharded, strict=True)
    ]
