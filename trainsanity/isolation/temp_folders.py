"""Temporary folders that go also where a process ends without unwinding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_open: list[str] = []


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A temporary folder, removed with all that is in it at the end."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        _open.append(folder)
        try:
            yield folder
        finally:
            _open.remove(folder)


def clear() -> None:
    """Remove those that are open: the process ends now."""
    import shutil

    for folder in _open:
        shutil.rmtree(folder, ignore_errors=True)
