"""What the loss supervises, as a table for people and as JSON values."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainsanity.objectives.base import CAUSAL_LM

if TYPE_CHECKING:
    from trainsanity.measurements.batches.supervision import Row, Supervision, Token

SCHEMA = 1
"""Rises when a key changes its meaning or goes; new keys may come without that."""

RUN = 3
"""Positions that are told in one line from this many on, where they differ in nothing."""

_COLUMNS = ("position", "id", "token", "attended", "label", "in the loss")


def as_dict(pipeline_id: str, seen: Supervision, rows: int) -> dict[str, Any]:
    """The JSON values of the first rows."""
    document = {**asdict(seen), "rows": [asdict(row) for row in seen.rows[:rows]]}
    return {"schema": SCHEMA, "pipeline": pipeline_id, **document}


def render(
    pipeline_id: str, seen: Supervision, *, rows: int, width: int = 100, color: bool = False
) -> str:
    """The first rows, a table each, and what the loss counts in the whole batch.

    Args:
        pipeline_id: what the pipeline is called.
        seen: what is shown.
        rows: how many rows.
        width: columns.
        color: with ANSI colours.  Nothing is said by colour alone.
    """
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
    )
    positions = sum(len(row.tokens) for row in seen.rows)
    attended = sum(token.attended for row in seen.rows for token in row.tokens)
    shift = " (the label of a position is predicted from the one before)"
    console.print(
        Text(
            f"{pipeline_id}: {seen.task}; the loss counts {seen.items} {seen.counts} of the first "
            f"batch, which has {len(seen.rows)} rows and {attended} of {positions} positions "
            f"attended{shift if seen.task == CAUSAL_LM else ''}"
        )
    )
    for i, row in enumerate(seen.rows[:rows]):
        console.print()
        console.print(Text(_heading(i, row, len(seen.rows)), style="bold"))
        console.print(_table(row))
    if rows < len(seen.rows):
        console.print()
        console.print(Text(f"{len(seen.rows) - rows} more: --rows {len(seen.rows)}", style="dim"))
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _heading(i: int, row: Row, of: int) -> str:
    attended = sum(token.attended for token in row.tokens)
    told = f"row {i} of {of}: {attended} tokens attended, {len(row.tokens)} positions"
    if row.label:
        return f"{told}; label {row.label}{'' if row.counted else ', not in the loss'}"
    counted = sum(token.counted for token in row.tokens)
    return f"{told}; {counted} in the loss"


def _table(row: Row) -> Table:
    per_token = not row.label
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in _COLUMNS if per_token else _COLUMNS[:4]:
        table.add_column(name, justify="right" if name in ("position", "id") else "left")
    for cells, counted in _lines(row.tokens):
        shown = cells if per_token else cells[:4]
        table.add_row(*map(Text, shown), style="green" if counted else "")
    return table


def _lines(tokens: Sequence[Token]) -> Iterator[tuple[list[str], bool]]:
    for _, run in groupby(tokens, key=lambda t: (t.id, t.attended, t.label, t.counted)):
        same = list(run)
        if len(same) < RUN:
            yield from ((_cells(str(token.position), token), token.counted) for token in same)
            continue
        span = f"{same[0].position}-{same[-1].position}"
        yield _cells(span, same[0]), same[0].counted


def _cells(place: str, token: Token) -> list[str]:
    label = "" if token.label is None else str(token.label)
    # A label that is the token itself is not written out again.
    if token.label_text and token.label_text != token.text:
        label += f" {token.label_text!r}"
    # Quoted, so that a space or a line break in a token is seen.
    shown = repr(token.text) if token.text else ""
    return [
        place,
        str(token.id),
        shown,
        "yes" if token.attended else "no",
        label,
        "yes" if token.counted else "no",
    ]
