"""Name the files that the user's own code opens for writing: those are not put back."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

from trainsanity.isolation import temp_folders
from trainsanity.isolation.reachable import is_own

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_listening: list[list[str]] = []
"""Where sentences go; the last is the innermost block's."""


@contextlib.contextmanager
def written_files_named(noted: list[str]) -> Iterator[None]:
    """Note each file that is opened for writing in the block, with who opened it."""
    _hook()
    _listening.append(noted)
    try:
        yield
    finally:
        _listening.pop()


@functools.cache
def _hook() -> None:
    """Listen to Python's own events, once: such a hook cannot be taken away again."""
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _listening:
        return
    path, mode, flags = arguments
    writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & WRITES
    if not writes or not isinstance(path, (str, bytes)):
        return
    who = _own_caller()
    place = os.path.realpath(os.fsdecode(path))
    if (
        not who
        or place == os.devnull
        or any(
            place.startswith(os.path.realpath(folder) + os.sep) for folder in temp_folders.in_use()
        )
    ):
        return
    sentence = f"{place}: was opened for writing by {who}"
    if sentence not in _listening[-1]:
        _listening[-1].append(sentence)


def _own_caller() -> str:
    """Return the innermost function outside the standard library, if it is the user's own."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if module.partition(".")[0] not in sys.stdlib_module_names or module == "__main__":
            return f"{module}.{frame.f_code.co_qualname}" if is_own(module) else ""
        frame = frame.f_back  # type: ignore[assignment]
    return ""
