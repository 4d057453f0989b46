"""Weights that are not trained are not written over what a training left."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from trainsanity.isolation import temp_folders
from trainsanity.isolation.time_limit import deferred

SAVERS = (
    ("torch", "save"),
    ("torch.serialization", "save"),
    ("safetensors.torch", "serialize_file"),
)
"""Functions by which torch, accelerate, peft and transformers write weights; by module."""


@contextlib.contextmanager
def weights_unwritten(noted: list[str]) -> Iterator[None]:
    """Let nobody write weights to files in the block, except below our temporary folders.

    Args:
        noted: is given the paths that were not written, once each.
    """
    undo: list[Callable[[], None]] = []
    try:
        with deferred():
            for module_name, name in SAVERS:
                module = _loaded(module_name)
                if module is not None and hasattr(module, name):
                    original = getattr(module, name)
                    setattr(module, name, _refusing(original, noted))
                    undo.append(functools.partial(setattr, module, name, original))
        yield
    finally:
        with deferred():
            for restore in reversed(undo):
                restore()


def _loaded(name: str) -> Any:
    import sys

    return sys.modules.get(name)


def _refusing(save: Callable[..., Any], noted: list[str]) -> Callable[..., Any]:
    @functools.wraps(save)
    def saving(obj: Any, f: Any = None, *args: Any, **kwargs: Any) -> Any:
        target = f if f is not None else kwargs.get("filename")
        if not isinstance(target, (str, os.PathLike)) or _ours(os.fspath(target)):
            if f is None:
                return save(obj, *args, **kwargs)
            return save(obj, f, *args, **kwargs)
        path = str(os.fspath(target))
        if path not in noted:
            noted.append(path)
        return None

    return saving


def _ours(path: str | bytes) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    return any(
        real.startswith(os.path.realpath(folder) + os.sep) for folder in temp_folders.in_use()
    )
