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
_SETTINGS = {
    "per_device_train_batch_size": re.compile(
        r"Instantaneous batch size per device = ([\d,]{1,24})\s*$"
    ),
    "gradient_accumulation_steps": re.compile(r"Gradient Accumulation steps = ([\d,]{1,24})\s*$"),
    "total_train_batch_size": re.compile(r"Total train batch size .*= ([\d,]{1,24})\s*$"),
    "max_steps": re.compile(r"Total optimization steps = ([\d,]{1,24})\s*$"),
}
"""Lines that the Trainer writes about its settings when it starts."""

_FACT = re.compile(r'"(max_steps|global_step|train_batch_size)"\s*:\s*(\d{1,18})(?!\d)')

LONGEST = 1 << 20
"""Characters without a closing brace that are kept at most: no entry is longer."""


class Cut(Exception):
    """The JSON ended in the middle."""


def lines_of(
    lines: Iterator[Line], facts: dict[str, Any]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entries of a log of lines, in any of the formats.

    What the Trainer says about its settings is added to ``facts``.

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
        if " = " in line:
            _note_settings(line, facts)
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
    whole = stripped.startswith("{")
    if whole and stripped.endswith("}") and "{" not in stripped[1:] and "}" not in stripped[:-1]:
        if values := pairs(stripped):  # the only object there is, and most lines have
            yield values
        return
    if whole and stripped.count("{") > 1:
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
            # A micro-batch of one process: per_device_train_batch_size x its devices.
            name = "per_device_train_batch_size" if key == "train_batch_size" else key
            facts.setdefault(name, int(value))


def _note_settings(line: str, facts: dict[str, Any]) -> None:
    """Note a setting that the Trainer logs; the last run's are those that count."""
    for name, pattern in _SETTINGS.items():
        match = pattern.search(line)
        if match is None or not (value := int(match[1].replace(",", "") or 0)):
            continue
        facts[name] = value
        rows, total = (facts.get(key, 0) for key in ("per_device_train_batch_size",
                                                     "total_train_batch_size"))  # fmt: skip
        # The last of the three that the Trainer writes.
        if name == "gradient_accumulation_steps" and rows and total % (rows * value) == 0:
            facts["world_size"] = max(total // (rows * value), 1)
