"""The line of the user's code that a result points at."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainsanity.engine.report import Report


def source_of(report: Report) -> tuple[Path, int] | None:
    """Return file and line where the pipeline comes from; None where they are unknown.

    That is the factory's ``def``, or the line of a script at which training begins, or else its
    first.  Nothing is imported.
    """
    if report.source is not None:
        file, line = report.source
        return Path(file).resolve(), line
    target = report.command[0] if report.command else ""
    name, colon, factory = target.partition(":")
    module = sys.modules.get(name) if colon else None
    if (found := getattr(module, factory, None)) is not None:
        code = getattr(inspect.unwrap(found), "__code__", None)
        if code is not None:  # a class has none
            return Path(code.co_filename).resolve(), code.co_firstlineno
    if os.path.isfile(target):
        return Path(target).resolve(), 1
    return None


def in_repository(path: Path) -> str | None:
    """Return a file's name as GitHub's annotations take it; None outside of the repository."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or os.getcwd()).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None
