"""The user's settings: ``[tool.trainsanity]`` in pyproject.toml."""

from __future__ import annotations

import difflib
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainsanity.declared import DECLARED, refuse_undeclarable
from trainsanity.engine.session import check_declared
from trainsanity.errors import UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.types import Cost

OPTIONS = (
    "pipelines",
    "expected_failures",
    "select",
    "max_cost",
    "timeout",
    "warnings_as_errors",
    *DECLARED,
)
"""The keys that ``[tool.trainsanity]`` may have."""


def configuration(start: Path | None = None) -> dict[str, Any]:
    """Return ``[tool.trainsanity]`` of the nearest pyproject.toml at or above ``start``.

    Returns:
        ``pipelines`` (list of targets), ``expected_failures`` (check name to reason, or pipeline to
        a table of these), ``select`` (list of words), ``max_cost`` (:class:`Cost`), ``timeout``
        (seconds), ``warnings_as_errors`` (bool) and what is declared of the pipelines; an empty
        dict if there is no such table.

    Raises:
        UsageError: the file cannot be read, or an entry is unknown or has the wrong type.
    """
    path = table_file(start)
    if path is None:
        return {}
    try:
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    table = tools.get("trainsanity") if isinstance(tools, dict) else tools
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.trainsanity must be a table")
    for key in table:
        if key not in OPTIONS:
            near = difflib.get_close_matches(key, OPTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(OPTIONS)}"
            # An option that has no effect would be taken for one that has.
            raise UsageError(f"{path}: tool.trainsanity has no {key!r}; {hint}")
    pipelines = table.get("pipelines", [])
    if not isinstance(pipelines, list) or not all(isinstance(p, str) for p in pipelines):
        raise UsageError(f"{path}: pipelines must be a list of 'pkg.module:factory' strings")
    _refuse_unusable(path, table.get("expected_failures", {}))
    check_declared(table.get("objective"), f"{path}: objective")
    if not isinstance(table.get("warnings_as_errors", False), bool):
        raise UsageError(f"{path}: warnings_as_errors must be true or false")
    for name, value in declared_in(table).items():
        refuse_undeclarable(name, value, f"{path}: ")
    return {**table, **_selection(path, table)}


def table_file(start: Path | None = None) -> Path | None:
    """Return the nearest pyproject.toml at or above ``start``; None if there is none."""
    folder = (start or Path.cwd()).resolve()
    paths = (parent / "pyproject.toml" for parent in (folder, *folder.parents))
    return next((path for path in paths if path.is_file()), None)


def declared_in(table: dict[str, Any]) -> dict[str, str]:
    """Return what the table declares of every pipeline that does not say otherwise."""
    return {name: table[name] for name in DECLARED if name in table}


def _refuse_unusable(path: Path, expected: Any) -> None:
    """Refuse expected failures that map no check, and no pipeline's checks, to reasons."""
    if not isinstance(expected, dict):
        raise UsageError(f"{path}: expected_failures must map each check name to a reason")
    for name, value in expected.items():
        if isinstance(value, dict) and is_target(name) and not any(map(is_target, value)):
            _refuse_unusable(path, value)
        elif not isinstance(value, str) or not value.strip():
            raise UsageError(
                f"{path}: expected_failures must map each check name to a reason, or a pipeline "
                f'to a table of these: [tool.trainsanity.expected_failures."pkg.mod:factory"]; '
                f"{name!r} has {value!r}"
            )


def _selection(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Return which checks the table selects, and how long each may take."""
    found: dict[str, Any] = {}
    if "select" in table:
        words = words_of(table["select"])
        if not words or not all(isinstance(word, str) for word in words):
            raise UsageError(f"{path}: select must name checks, as in ['collator', 'TS5']")
        found["select"] = words
    if "max_cost" in table:
        found["max_cost"] = cost_of(str(table["max_cost"]), f"{path}: max_cost")
    if "timeout" in table:
        if type(table["timeout"]) not in (int, float):
            raise UsageError(f"{path}: timeout must be a number of seconds")
        limits.checked(table["timeout"], f"{path}: timeout")
    return found


def cost_of(given: Cost | str | None, where: str) -> Cost | None:
    """Return the cost that a word names, in any case.

    Raises:
        UsageError: there is none of that name.
    """
    if given is None or isinstance(given, Cost):
        return given
    if str(given).upper() not in Cost.__members__:
        raise UsageError(f"{where} must be one of {', '.join(Cost.__members__)}")
    return Cost[str(given).upper()]


def words_of(given: Any) -> list[Any]:
    """Return words that are given as a list, or as one string with commas between them."""
    if isinstance(given, str):
        return [word.strip() for word in given.split(",") if word.strip()]
    return list(given) if isinstance(given, Iterable) else []


def split(target: str) -> tuple[str, tuple[str, ...]]:
    """Return a target's name, and its own arguments: ``"train.py -- --lr 1e-5"`` has two.

    Raises:
        UsageError: they cannot be told apart.
    """
    name, _, arguments = target.partition(" -- ")
    try:
        return name.strip(), tuple(shlex.split(arguments))
    except ValueError as error:
        raise UsageError(f"{target!r}: {error}; quote the arguments as in a shell") from error


def is_target(name: str) -> bool:
    """Return whether a name is a pipeline's rather than a check's."""
    return ":" in name or name.partition(" ")[0].endswith(".py")


def failures_of(expected: Mapping[str, Any] | None, *pipeline: str) -> dict[str, str]:
    """Return the failures that are accepted of one pipeline: those of all, and its own.

    Args:
        expected: as in :func:`configuration`.
        pipeline: the names it goes by.
    """
    every = {k: v for k, v in (expected or {}).items() if isinstance(v, str)}
    own = [v for k, v in (expected or {}).items() if not isinstance(v, str) and k in pipeline]
    return {check: reason for table in [every, *own] for check, reason in table.items()}


def checks_in(expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all checks that a table of expected failures has."""
    for name, value in expected.items():
        yield from [name] if isinstance(value, str) else value
