"""Extract keys and values from text: dict lines, JSON, tables, CSV."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainsanity.diagnose.entries import field_of

Line = tuple[int, str]

_FLAT = re.compile(r"\{[^{}]*\}")
_PAIR = re.compile(r"""['"]([^'"]+)['"]\s*:\s*(?:'([^']*)'|"([^"]*)"|([^,}\s]+))""")
_RULE = re.compile(r"[\s|:+=-]*")
_COLUMNS = re.compile(r"\t|\s{2,}")
_FACT = re.compile(r'"(max_steps|global_step)"\s*:\s*(\d+)')

LONGEST = 1 << 20
"""Characters without a closing brace that are kept at most: no entry is longer."""


class Cut(Exception):
    """The JSON ended in the middle."""


def lines_of(lines: Iterator[Line]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entries of a log of lines, in any of the formats.

    Raises:
        Cut: the last line ended inside an entry.
    """
    columns: list[str] = []
    cut = False
    for number, line in lines:
        cut = False
        if "{" in line:
            values = list(_objects(line))
            cut = not values and "}" not in line and bool(_PAIR.search(line))
            for each in values:
                yield number, each
            continue
        cells = _cells(line, len(columns))
        if _is_header(cells):
            columns = cells
        elif columns and len(cells) == len(columns):
            yield number, dict(zip(columns, cells, strict=True))
    if cut:
        raise Cut


def _objects(line: str) -> Iterator[Mapping[str, Any]]:
    """Yield the objects in a line; nested ones are flattened."""
    stripped = line.strip()
    if stripped.count("{") > 1 and stripped.startswith("{"):
        try:
            yield _flattened(json.loads(stripped))
        except (json.JSONDecodeError, RecursionError):
            pass
        else:
            return
    for match in _FLAT.finditer(line):
        if values := pairs(match[0]):
            yield values


def _flattened(value: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flattened(item) if isinstance(item, Mapping) else {key: item}
    return flat


def pairs(text: str) -> dict[str, str]:
    """Return keys and values of a flat dict as Python or JSON prints it, unconverted."""
    return {key: one or two or bare for key, one, two, bare in _PAIR.findall(text)}


def _cells(line: str, expected: int) -> list[str]:
    """Split a table's row into cells at bars, commas, tabs or blanks."""
    stripped = line.strip()
    if not stripped or _RULE.fullmatch(stripped):
        return []
    if "|" in stripped:
        return [cell.strip() for cell in stripped.strip("|").split("|")]
    for comma in ";,":
        if comma in stripped:
            return [cell.strip() for cell in stripped.split(comma)]
    wide = _COLUMNS.split(stripped)
    words = stripped.split()
    return wide if len(wide) > 1 and (not expected or len(wide) == expected) else words


def _is_header(cells: list[str]) -> bool:
    """Return whether the cells are names of columns, one of them a loss."""
    names = [field_of(cell) for cell in cells]
    known = [name for name in names if name]
    return (
        len(known) > 1
        and bool({"loss", "eval_loss"} & set(known))
        and len(known) == len(set(known))
    )


def document(
    lines: Iterator[Line], facts: dict[str, Any]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the flat objects in a JSON document, e.g. ``log_history``, without holding all of it.

    Settings of the run in ``trainer_state.json`` are added to ``facts``.

    Raises:
        Cut: the document ended in the middle.
    """
    buffer, depth = "", 0
    for number, line in lines:
        depth += line.count("{") + line.count("[") - line.count("}") - line.count("]")
        buffer += line
        if "}" not in line and len(buffer) < LONGEST:
            continue
        end = 0
        for match in _FLAT.finditer(buffer):
            _note_facts(buffer[end : match.start()], facts)
            end = match.end()
            if values := pairs(match[0]):
                yield number, values
        # The beginning of an entry that goes on in the next piece is kept.
        buffer = buffer[max(end, len(buffer) - LONGEST) :]
    _note_facts(buffer, facts)
    if depth:
        raise Cut


def _note_facts(text: str, facts: dict[str, Any]) -> None:
    for key, value in _FACT.findall(text):
        if int(value):
            facts.setdefault(key, int(value))
