"""Walk through the objects that a pipeline reaches, and name the path to each."""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, str] | None
"""The path of the holder, and what the holder calls the object; None for the root."""

OPAQUE = (
    "asyncio", "comet_ml", "concurrent", "contextvars", "enum", "fsspec", "huggingface_hub",
    "importlib", "inspect", "logging", "matplotlib", "mlflow", "multiprocessing", "neptune",
    "pandas", "PIL", "pluggy", "polars", "pyarrow", "pytest", "_pytest", "re", "rich", "socket",
    "sqlite3", "ssl", "subprocess", "swanlab", "tensorboardX", "threading", "tokenizers", "tqdm",
    "trainsanity", "typing", "wandb", "weakref",
)  # fmt: skip
"""Packages whose objects hold no state of a run, or state that is not the run's to put back."""

OPAQUE_MODULES = (
    "datasets.features",
    "datasets.info",
    "datasets.table",
    "torch._C",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed",
    "torch.fx",
    "torch.jit",
    "torch.utils.tensorboard",
)
"""Parts of packages whose other objects are walked."""

ATOMS = frozenset({
    type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range,
    slice, types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.MappingProxyType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType,
    types.MethodDescriptorType, property, staticmethod, classmethod,
})  # fmt: skip
"""Types whose values never change and lead nowhere."""


@functools.lru_cache(maxsize=4096)
def is_opaque(cls: type) -> bool:
    """Return whether objects of this class are not looked into.

    FSDP2 makes a class of its own for each module that it shards, which is a module still.
    """
    module = getattr(cls, "__module__", "") or ""
    if any(one.__module__ == "torch.nn.modules.module" for one in cls.__mro__):
        return False
    return module.partition(".")[0] in OPAQUE or module.startswith(OPAQUE_MODULES)


@functools.lru_cache(maxsize=4096)
def is_own(module: str) -> bool:
    """Return whether a module is the user's own: no installed package, no standard library."""
    package = module.partition(".")[0]
    if package in ("__main__", "__mp_main__"):
        return True
    if package in sys.stdlib_module_names or package in ("builtins", "trainsanity"):
        return False
    file = getattr(sys.modules.get(module) or sys.modules.get(package), "__file__", None) or ""
    return (
        "site-packages" not in file
        and "dist-packages" not in file
        and not _installed_beside(file, package)
    )


def _installed_beside(file: str, package: str) -> bool:
    """Return whether pip put a package where it lies (``--target``), with what it notes of it."""
    folder = file.rpartition(f"{os.sep}{package}{os.sep}")[0]
    try:
        names = os.listdir(folder) if folder else []
    except OSError:
        return False
    return any(
        name.endswith(".dist-info") and name.partition("-")[0].lower() == package.lower()
        for name in names
    )


@functools.lru_cache(maxsize=4096)
def own_classes(cls: type) -> list[type]:
    """Return the class and those it inherits from, as far as they are the user's own."""
    return [one for one in cls.__mro__ if is_own(getattr(one, "__module__", "builtins"))]


def own_globals(function: types.FunctionType) -> Iterator[str]:
    """Yield the names that a function of the user's own uses of its module's."""
    codes, known = [function.__code__], function.__globals__
    while codes:
        code = codes.pop()
        yield from (name for name in code.co_names if name in known)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


@functools.lru_cache(maxsize=4096)
def slots_of(cls: type) -> list[Any]:
    """Return the descriptors of a class's ``__slots__``."""
    return [
        member
        for one in cls.__mro__
        for member in vars(one).values()
        if type(member) is types.MemberDescriptorType and "__slots__" in vars(one)
    ]


def words(path: Path) -> str:
    """Return a path as Python writes it: ``train_dataset.rows[3]``."""
    parts: list[str] = []
    while path is not None:
        path, name = path
        parts.append(name)
    return re.sub(r"\._modules\['([^']*)'\]", r".\1", "".join(reversed(parts))).lstrip(".")
