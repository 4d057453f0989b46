"""Gradient checkpointing: which modules do it, and how it is switched for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def checkpointed(model: Any) -> list[tuple[Any, Any]]:
    """The modules that compute their activations again in the backward pass, each with how."""
    return [
        (module, getattr(module, SWITCHES[1], None))
        for module in model.modules()
        if getattr(module, SWITCHES[0], False)
    ]


@contextmanager
def checkpointed_in(model: Any, on: list[tuple[Any, Any]]) -> Iterator[None]:
    """Gradient checkpointing in these modules, as each did it, and in no other."""
    modules = [module for module in model.modules() if hasattr(module, SWITCHES[0])]
    before = [{name: vars(m)[name] for name in SWITCHES if name in vars(m)} for m in modules]
    try:
        for module in modules:
            module.gradient_checkpointing = False
        for module, function in on:
            module.gradient_checkpointing = True
            if function is not None:
                module._gradient_checkpointing_func = function
        yield
    finally:
        for module, values in zip(modules, before, strict=True):
            for name in SWITCHES:
                vars(module).pop(name, None)
            vars(module).update(values)
