"""Patch other libraries' classes while the user's code runs, and undo it afterwards.

No library is imported for that: a script may set ``HF_HOME`` or ``HF_HUB_OFFLINE`` before it
imports transformers.  So a class is patched when the user's code imports it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

TRAINER = ("transformers.trainer", "Trainer")
MODULE = ("torch.nn.modules.module", "Module")

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Returns the replacement of a method."""


Undo = Callable[[], None]


@contextlib.contextmanager
def patched(home: tuple[str, str], wrappers: Mapping[str, Wrapper]) -> Iterator[None]:
    """Replace methods of a class now, or as soon as its module is imported; undone at the end.

    Args:
        home: the names of module and class; without a class, functions of the module are replaced.
        wrappers: by name of the method; a name that the class does not have is left out.
    """
    module, name = home

    def apply(loaded: ModuleType) -> Iterator[Undo]:
        owner: Any = getattr(loaded, name) if name else loaded
        for method, wrap in wrappers.items():
            original = getattr(owner, method, None)
            if original is None:
                continue
            # An inherited method is restored by deleting the patch.
            yield (
                functools.partial(setattr, owner, method, original)
                if method in vars(owner)
                else functools.partial(delattr, owner, method)
            )
            setattr(owner, method, wrap(original))

    with when_imported(module, apply):
        yield


@contextlib.contextmanager
def when_imported(module: str, apply: Callable[[ModuleType], Iterable[Undo]]) -> Iterator[None]:
    """Call ``apply`` with a module now, or as soon as it is imported.

    Args:
        module: its name.
        apply: yields what undoes each change of the module; called at the end of the block.
    """
    undo: list[Undo] = []

    def loaded(found: ModuleType) -> None:
        undo.extend(apply(found))

    finder = _Finder(module, loaded)
    if module in sys.modules:
        loaded(sys.modules[module])
    else:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)
        for restore in reversed(undo):
            restore()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module through the other finders, and calls back when it has been executed."""

    def __init__(self, module: str, loaded: Callable[[ModuleType], None]) -> None:
        self.module, self.loaded = module, loaded

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        # Another patch may wait for the same module, so all finders after this one are tried.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._call_after(spec.loader)
                return spec
        return None

    def _call_after(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.loaded(module)

        loader.exec_module = exec_module


class NewFolders:
    """The output folders that Trainers create when they are built; empty ones are removed.

    Args:
        made: called with the folders that one of them has made, parents and all.
    """

    def __init__(self, made: Callable[[list[str]], None] = lambda folders: None) -> None:
        self._made: set[Path] = set()
        self._tell = made

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """Record the folders that Trainers create in the block."""
        return patched(TRAINER, {"__init__": self._noting})

    def _noting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
            folder = _output_dir(original, trainer, *args, **kwargs)
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                original(trainer, *args, **kwargs)
            finally:
                made = [path for path in missing if path.is_dir()]
                self._made.update(made)
                if made:
                    self._tell([str(path) for path in made])

        return init

    def remove_empty(self) -> None:
        """Remove those that are still empty."""
        remove_empty(self._made)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty, ``a/b/c`` from its end."""
    for folder in sorted(set(folders), key=lambda path: len(path.parts), reverse=True):
        # rmdir refuses a folder that is not empty, so nothing of value can be lost.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _output_dir(init: Callable[..., Any], *args: Any, **kwargs: Any) -> Path:
    arguments = None
    with contextlib.suppress(TypeError):  # init itself reports a wrong call
        arguments = inspect.signature(init).bind(*args, **kwargs).arguments.get("args")
    # The Trainer's default without TrainingArguments.
    return Path(getattr(arguments, "output_dir", None) or "tmp_trainer").absolute()
