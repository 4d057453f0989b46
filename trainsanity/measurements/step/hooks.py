"""Hooks that ``train()`` adds to the model, and its buffers, for a forward to be repeated.

NEFTune's noise and the inputs that checkpointing needs to require a gradient are hooks that are
there while the Trainer trains, and at no other time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainsanity.isolation.reachable import own_classes
from trainsanity.isolation.rewind import Rewind
from trainsanity.isolation.shards import of_engine

KINDS = ("_forward_pre_hooks", "_forward_hooks")


@dataclass(frozen=True)
class AddedHook:
    """A hook, and the settings of its module that it reads.

    Attributes:
        module: that it is registered on.
        kind: one of :data:`KINDS`.
        hook: the function.
        with_kwargs: whether it is given the call's named arguments, too.
        settings: plain attributes that the module has beside its own.
    """

    module: Any
    kind: str
    hook: Any
    with_kwargs: bool
    settings: dict[str, Any]


def hooks_of(model: Any) -> dict[tuple[int, str, int], set[str]]:
    """Return the hooks that are there, and the names of the attributes of their modules."""
    return {
        (id(module), kind, number): set(vars(module))
        for module in model.modules()
        for kind in KINDS
        for number in (-1, *getattr(module, kind))
    }


def added_hooks(model: Any, before: dict[tuple[int, str, int], set[str]]) -> list[AddedHook]:
    """Return the hooks that were not there before, but for those of an engine that shards."""
    return [
        AddedHook(
            module,
            kind,
            hook,
            number in getattr(module, f"{kind}_with_kwargs", ()),
            {
                name: value
                for name, value in vars(module).items()
                if isinstance(value, int | float | str)
                and name not in before.get((id(module), kind, -1), ())
            },
        )
        for module in model.modules()
        for kind in KINDS
        for number, hook in getattr(module, kind).items()
        if (id(module), kind, number) not in before and not of_engine(hook)
    ]


@contextmanager
def hooked(added: Sequence[AddedHook]) -> Iterator[None]:
    """Register them again in the block."""
    handles, given = [], []
    for one in added:
        for name, value in one.settings.items():
            if name not in vars(one.module):
                setattr(one.module, name, value)
                given.append((one.module, name))
        name = one.kind.removeprefix("_").removesuffix("s")
        register = getattr(one.module, f"register_{name}")
        handles.append(register(one.hook, with_kwargs=one.with_kwargs))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name in given:
            vars(module).pop(name, None)


SMALL = 1 << 16
"""Elements of a buffer that is put back before a micro-batch is asked again."""


@dataclass(frozen=True)
class ModuleState:
    """What a forward in train mode leaves in the modules, as it was before one.

    Attributes:
        buffers: the small ones, each with a copy.
        assigned: modules of the user's own, with the buffers and the numbers that they had.
        held: their generators, tensors and containers.
    """

    buffers: list[tuple[Any, Any]]
    assigned: list[tuple[Any, dict[str, Any], dict[str, Any]]]
    held: Rewind | None

    def put_back(self) -> None:
        """Give the modules what they had."""
        import torch

        for module, buffers, numbers in self.assigned:
            module._buffers.update(buffers)
            vars(module).update(numbers)
        with torch.no_grad():
            for buffer, values in self.buffers:
                buffer.copy_(values)
        if self.held is not None:
            self.held.restore()


def state_of(model: Any) -> ModuleState:
    """Note what the modules hold; of the libraries' own modules, the small buffers."""
    buffers = [(b, b.detach().clone()) for b in model.buffers() if b.numel() <= SMALL]
    assigned, parts = [], []
    for name, module in model.named_modules():
        cls: Any = type(module)
        if any(True for _ in module.buffers(recurse=False)) or own_classes(cls):
            assigned.append((module, dict(module._buffers), _numbers(module)))
        if own_classes(cls):
            parts += [
                (f"{name}.{attribute}", value)
                for attribute, value in vars(module).items()
                if not attribute.startswith("_") and attribute != "config"
            ]
    elsewhere = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return ModuleState(
        buffers, assigned, Rewind(parts, elsewhere, apart=model.modules()) if parts else None
    )


def _numbers(module: Any) -> dict[str, Any]:
    """Return a module's counters; its mode is set by whoever asks."""
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }
