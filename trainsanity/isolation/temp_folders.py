"""Temporary folders that are removed also when a process ends without unwinding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_open: list[str] = []


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """Yield a temporary folder; it is removed with its contents at the end."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        _open.append(folder)
        try:
            yield folder
        finally:
            _open.remove(folder)


def in_use() -> list[str]:
    """Return the temporary folders that are in use."""
    return list(_open)


def clear() -> None:
    """Remove the folders that are in use: call it only before the process ends."""
    import shutil

    for folder in _open:
        shutil.rmtree(folder, ignore_errors=True)
