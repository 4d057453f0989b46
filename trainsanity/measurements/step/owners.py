"""Owner of the code that computes a loss: a library, or the user."""

from __future__ import annotations

import inspect
from typing import Any

from trainsanity.isolation.overrides import LIBRARIES


def of_a_library(function: Any) -> bool:
    """Return whether a function, or the class of a callable, is a library's."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] in LIBRARIES


def named(code: Any) -> str:
    """Return where a function or class of the user's is found: its module, and its name there."""
    name = getattr(code, "__qualname__", type(code).__qualname__)
    module = getattr(code, "__module__", None) or type(code).__module__
    return f"{module}.{name}".replace("<locals>.", "")


def own_class(trainer: Any) -> str:
    """Return the class of the user's own that a library's Trainer was made into; empty if none.

    A loss that was put on the Trainer itself is named, too.
    """
    instance = [name for name, value in vars(trainer).items() if "loss" in name and callable(value)]
    for cls in type(trainer).__mro__:
        if cls.__module__.partition(".")[0] not in (*LIBRARIES, "builtins", "typing", "abc"):
            return named(cls)
    return instance[0] if instance else ""
