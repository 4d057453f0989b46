"""Hooks that ``train()`` adds to the model, and its buffers, for a forward to be repeated.

NEFTune's noise and the inputs that checkpointing needs to require a gradient are hooks that are
there while the Trainer trains, and at no other time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    """Return the hooks that were not there before."""
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
        if (id(module), kind, number) not in before
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


def buffers_of(model: Any) -> list[tuple[Any, Any]]:
    """Return the model's small buffers, each with a copy."""
    return [(b, b.detach().clone()) for b in model.buffers() if b.numel() <= SMALL]


def put_back(buffers: list[tuple[Any, Any]]) -> None:
    """Give buffers the values that they had."""
    import torch

    with torch.no_grad():
        for buffer, values in buffers:
            buffer.copy_(values)
