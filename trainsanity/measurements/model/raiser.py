"""float32 copies that stand in for a model's weights, block by block.

Nothing is written to the model's own tensors: a copy takes the place of each in its module, and the
same object comes back.  So hooks on parameters, tied weights and what data parallelism holds of
them stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import is_sharded, local, made_in_parts, shape_of, whole
from trainsanity.isolation.time_limit import deferred

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = 4
"""Bytes of a float32."""


@dataclass(eq=False)
class Slot:
    """A place of a module that holds a tensor.

    Attributes:
        holder: the module's dictionary of parameters or of buffers.
        name: the tensor's name there.
        own: the model's own tensor.
        weight: whether it is a parameter.
    """

    holder: dict[str, Any]
    name: str
    own: Any
    weight: bool

    @property
    def sharded(self) -> bool:
        """Return whether this process holds only a part of it."""
        return is_sharded(self.own)

    @property
    def lower(self) -> bool:
        """Return whether its dtype is below float32."""
        return bool(self.own.dtype.itemsize < SINGLE)

    def holds(self, tensor: Any) -> bool:
        """Return whether that very tensor stands here; a forward may put others in its place."""
        return self.holder.get(self.name) is tensor


@dataclass(eq=False)
class Copy:
    """A float32 copy and how many places hold it: tied weights have several.

    Attributes:
        tensor: the copy.
        version: of a buffer, torch's count of its changes when it was made.
        places: how many hold it now.
    """

    tensor: Any
    version: int = 0
    places: int = 0


@dataclass(eq=False)
class Block:
    """A module whose weights are raised while it runs, or everything that lies outside of those."""

    slots: list[Slot]
    recurrent: list[Any]
    depth: int = 0
    flat: list[Any] = field(default_factory=list)


class Raiser:
    """Holds float32 copies in the places of a model's weights.

    A sharded weight is gathered, so that all processes have to enter a block.

    Args:
        model: whose weights they are.
        whole: all at once, and not block by block.
        raises: whether copies are float32; gathered alone if not.
    """

    def __init__(self, model: Any, *, whole: bool = False, raises: bool = True) -> None:
        self.repeated = (
            {} if whole else {module: _block(module.modules()) for module in repeated(model)}
        )
        inside = {id(one) for module in self.repeated for one in module.modules()}
        self.outside = _block(one for one in model.modules() if id(one) not in inside)
        self.raises = raises
        self.copies: dict[int, Copy] = {}
        self.nudging = False

    @property
    def blocks(self) -> list[Block]:
        """All of them, with what lies outside first."""
        return [self.outside, *self.repeated.values()]

    @property
    def lowers(self) -> bool:
        """Return whether any weight or buffer is below float32."""
        return any(slot.lower for block in self.blocks for slot in block.slots)

    @property
    def longest(self) -> int:
        """Terms of the longest sum: the last dimension of the widest matrix."""
        matrices = (
            shape_of(slot.own) for block in self.blocks for slot in block.slots if slot.weight
        )
        return max((shape[-1] for shape in matrices if len(shape) > 1), default=1)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raise what lies outside of blocks, and each block while it runs."""
        handles = []
        for module, block in self.repeated.items():
            enter, leave = self._hooks(block)
            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            self.enter(self.outside)
            yield
        finally:
            with deferred():
                for handle in handles:
                    handle.remove()
                # A block that was left by something that is no Exception is still raised.
                for block in self.blocks:
                    block.depth = min(block.depth, 1)
                    self.leave(block)

    @contextlib.contextmanager
    def nudged(self) -> Iterator[None]:
        """Have weights that differ from the model's by one unit in the last place."""
        self.leave(self.outside)
        self.nudging = True
        try:
            self.enter(self.outside)
            yield
        finally:
            self.leave(self.outside)
            self.nudging = False
            self.enter(self.outside)

    def _hooks(self, block: Block) -> tuple[Callable[..., None], Callable[..., None]]:
        return lambda *_: self.enter(block), lambda *_: self.leave(block)

    def enter(self, block: Block) -> None:
        """Put copies in the places of a block; once for calls of itself within itself."""
        block.depth += 1
        if block.depth > 1:
            return
        for slot in block.slots:
            wanted = slot.lower if self.raises else False
            wanted = wanted or slot.sharded or (self.nudging and slot.weight)
            if wanted and slot.holds(slot.own):
                copy = self.copies.get(id(slot.own)) or self._copy(slot)
                self.copies[id(slot.own)] = copy
                copy.places += 1
                slot.holder[slot.name] = copy.tensor
        block.flat = [vars(module)["_flat_weights"] for module in block.recurrent]
        for module in block.recurrent:
            vars(module)["_flat_weights"] = [
                module._parameters.get(name) for name in module._flat_weights_names
            ]

    def leave(self, block: Block) -> None:
        """Put the model's own tensors back."""
        block.depth -= block.depth > 0
        if block.depth:
            return
        for slot in block.slots:
            copy = self.copies.get(id(slot.own))
            if copy is None or not slot.holds(copy.tensor):
                continue
            slot.holder[slot.name] = slot.own
            copy.places -= 1
            if not copy.places:
                del self.copies[id(slot.own)]
                if not slot.weight and copy.tensor._version != copy.version:
                    slot.own.copy_(copy.tensor)  # a state that the model keeps
        for module, flat in zip(block.recurrent, block.flat, strict=False):
            vars(module)["_flat_weights"] = flat
        block.flat = []

    def _copy(self, slot: Slot) -> Copy:
        import torch

        made = whole(slot.own).detach()
        if slot.lower and self.raises:
            made = made.float()  # what was gathered is given back
        if not slot.weight:
            return Copy(made, made._version)
        if self.nudging:
            # An embedding of 152 thousand words needs gigabytes a second time.
            ours = made.data_ptr() != local(slot.own).data_ptr()
            made = nudge(made, in_place=ours)
        return Copy(torch.nn.Parameter(made, requires_grad=False))


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Have a model that DeepSpeed made in parts run without its engine, block by block.

    FSDP2 gathers by itself.
    """
    if not made_in_parts(model):
        yield
        return
    with Raiser(model, raises=False).raised():
        yield


def repeated(model: Any) -> list[Any]:
    """Return the outermost modules that ModuleLists hold, each once."""
    import torch

    containers = (torch.nn.ModuleList, torch.nn.ModuleDict)
    found: dict[int, Any] = {}

    def walk(module: Any) -> None:
        for child in module.children():
            if isinstance(module, torch.nn.ModuleList) and not isinstance(child, containers):
                found[id(child)] = child
            else:
                walk(child)

    walk(model)
    return list(found.values())


AT_ONCE = 1 << 24
"""Elements that are moved at a time: what that needs besides is twice their 64 MiB."""


def nudge(tensor: Tensor, *, in_place: bool = False) -> Tensor:
    """Move each element by one unit in its last place, up or down by its last bit in bfloat16.

    A common factor would be taken out again by the next normalisation.

    Args:
        tensor: what is moved.
        in_place: write over the tensor, where it lies in one piece.
    """
    import torch

    if tensor.dtype != torch.float32:
        return tensor * (1 + torch.finfo(tensor.dtype).eps)
    ours = in_place and tensor.is_contiguous()
    moved = tensor if ours else tensor.clone(memory_format=torch.contiguous_format)
    for part in moved.view(-1).split(AT_ONCE):
        stays = ~part.isfinite() | (part == 0)
        bits = part.view(torch.int32)
        step = (bits >> 16).bitwise_and_(1).mul_(-2).add_(1)
        bits.add_(step.masked_fill_(stays, 0))
    return moved


def _block(modules: Iterable[Any]) -> Block:
    import torch

    every = list(modules)
    slots = []
    for module in every:
        for holder, weight in ((module._parameters, True), (module._buffers, False)):
            slots += [
                Slot(holder, name, tensor, weight)
                for name, tensor in holder.items()
                if tensor is not None and tensor.is_floating_point()
            ]
    recurrent = [one for one in every if isinstance(one, torch.nn.RNNBase)]
    return Block(slots, recurrent)
