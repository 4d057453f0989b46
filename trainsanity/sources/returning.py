"""Refuse functions that train instead of returning the Trainer, before they are called."""

from __future__ import annotations

import dis
import os
import shlex
import types
from collections.abc import Sequence
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from typing import Any

from trainsanity.errors import UsageError


def refuse_without_result(name: str, function: Any, arguments: Sequence[str] = ()) -> None:
    """Refuse a function that cannot return anything, as the ``main()`` of a script is.

    It would train, for hours, and save; and nothing that could be judged would come of it.

    Args:
        name: the pipeline's name.
        function: what would be called.
        arguments: what the command line gives it.

    Raises:
        UsageError: all ways through it end without a value.
    """
    if not isinstance(function, types.FunctionType) or not _returns_nothing(function.__code__):
        return
    script = ""
    file = os.path.relpath(function.__code__.co_filename)
    if not file.startswith("..") and _is_run(Path(file)):
        command = shlex.join(
            ["trainsanity", "run", file, *(["--", *arguments] if arguments else [])]
        )
        script = f"; or `{command}` judges the script as it is"
    raise UsageError(
        f"{name} returns nothing, so that it is not called: return the Trainer that you would call "
        f"train() on{script}"
    )


def _returns_nothing(code: types.CodeType) -> bool:
    """Return whether all returns in a function's code are of None; False where there is none."""
    if code.co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR):
        return False
    found, before = False, None
    for one in dis.get_instructions(code):
        none = one.opname == "RETURN_CONST" and one.argval is None
        if one.opname == "RETURN_VALUE":
            none = before is not None and before.opname == "LOAD_CONST" and before.argval is None
        if one.opname in ("RETURN_CONST", "RETURN_VALUE"):
            if not none:
                return False
            found = True
        before = one
    return found


def _is_run(file: Path) -> bool:
    """Return whether a file does something when it is started as a script."""
    try:
        return "__main__" in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
