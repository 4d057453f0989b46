"""The user's settings: ``[tool.trainsanity]`` in pyproject.toml."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from trainsanity.engine.session import check_declared
from trainsanity.errors import UsageError
from trainsanity.pipeline import DECLARED, refuse_undeclarable

OPTIONS = ("pipelines", "expected_failures", "warnings_as_errors", *DECLARED)
"""The keys that ``[tool.trainsanity]`` may have."""


def configuration(start: Path | None = None) -> dict[str, Any]:
    """Return ``[tool.trainsanity]`` of the nearest pyproject.toml at or above ``start``.

    Returns:
        ``pipelines`` (list of targets), ``expected_failures`` (check name to reason),
        ``warnings_as_errors`` (bool) and what is declared of the pipelines; an empty dict if there
        is no such table.

    Raises:
        UsageError: the file cannot be read, or an entry is unknown or has the wrong type.
    """
    folder = (start or Path.cwd()).resolve()
    for path in (parent / "pyproject.toml" for parent in (folder, *folder.parents)):
        if path.is_file():
            break
    else:
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
    expected = table.get("expected_failures", {})
    if not isinstance(expected, dict) or not all(
        isinstance(reason, str) and reason.strip() for reason in expected.values()
    ):
        raise UsageError(f"{path}: expected_failures must map each check name to a reason")
    check_declared(table.get("objective"), f"{path}: objective")
    if not isinstance(table.get("warnings_as_errors", False), bool):
        raise UsageError(f"{path}: warnings_as_errors must be true or false")
    for name, value in declared_in(table).items():
        refuse_undeclarable(name, value, f"{path}: ")
    return dict(table)


def declared_in(table: dict[str, Any]) -> dict[str, str]:
    """Return what the table declares of every pipeline that does not say otherwise."""
    return {name: table[name] for name in DECLARED if name in table}
