"""The user's own overrides of what switches a model's mode or evaluates it.

Such code may write: weights, what is trainable.  That is for a check to report, and for the
snapshot to put back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

LIBRARIES = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "sentence_transformers",
    "setfit",
    "torch",
)
"""Packages whose code is nobody's own: their ``train()`` and ``eval()`` write nothing, and where a
loss of theirs is not the formula, that is a fault."""

_written: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()
"""By model, what was found to be written; asked once."""


def own_methods(obj: Any, names: Iterable[str]) -> list[str]:
    """Return the methods of these names that no library defines, as ``Class.method``."""
    found = []
    for name in names:
        method = vars(obj).get(name) or getattr(type(obj), name, None)
        method = getattr(method, "__func__", method)
        package = str(getattr(method, "__module__", "torch")).partition(".")[0]
        if method is not None and package not in LIBRARIES:
            owner = next((c for c in type(obj).__mro__ if name in vars(c)), type(obj))
            found.append(f"{owner.__name__}.{name}")
    return found


def own_modes(model: Any) -> list[str]:
    """Return the ``train()`` and ``eval()`` that the model's modules override."""
    found = (name for one in model.modules() for name in own_methods(one, ("train", "eval")))
    return list(dict.fromkeys(found))


def hooked(pipeline: Any, name: str) -> bool:
    """Return whether a parameter has a hook on its gradient that no library has put there."""
    parameter = dict(pipeline.model.named_parameters())[name]
    hooks = [
        one
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")
        for one in (getattr(parameter, kind, None) or {}).values()
    ]
    return any(
        str(getattr(one, "__module__", "torch")).partition(".")[0] not in LIBRARIES for one in hooks
    )


def own_evaluation(trainer: Any) -> list[str]:
    """Return the methods by which the user's own Trainer evaluates."""
    return own_methods(trainer, ("evaluate", "evaluation_loop", "prediction_step"))


def written_by_modes(model: Any) -> list[str]:
    """Return the names of parameters whose values ``train()`` and ``eval()`` change.

    Both are called, and weights, modes and what is trainable are put back; where nothing overrides
    them, neither is.
    """
    import torch

    from trainsanity.isolation.hashing import hashes
    from trainsanity.isolation.host_memory import to_device, to_host

    if model in _written:
        return _written[model]
    if not own_modes(model):
        return []
    named = dict(model.named_parameters())
    tensors = [*named.values(), *model.buffers()]
    flags = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in named.values()]
    before, copies = hashes(named.values()), to_host(tensors)
    try:
        for mode in (True, False, True):
            model.train() if mode else model.eval()
        changed = [
            name for name, a, b in zip(named, before, hashes(named.values()), strict=True) if a != b
        ]
    finally:
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
        for module, mode in flags:
            module.training = mode
        with torch.no_grad():
            to_device(copies, tensors)
    _written[model] = changed
    return changed
