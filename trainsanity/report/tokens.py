"""A few rows of a batch token by token, with mask and label; uniform stretches left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainsanity.measurements.batches.supervision import Row, Supervision, Token

AROUND = 4
"""Tokens shown on either side of each place where mask or loss change, and at both ends."""

EDGES = 6
"""Changes shown of one row.  A row of many turns would be as long as the batch otherwise."""


def excerpt(supervision: Supervision) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Return the columns, and a table for the shortest, the middle and the longest row."""
    by_length = sorted(range(len(supervision.rows)), key=lambda i: _attended(supervision.rows[i]))
    picked = dict.fromkeys((by_length[0], by_length[len(by_length) // 2], by_length[-1]))
    tables = [_table(i, supervision.rows[i]) for i in picked]
    columns: tuple[str, ...] = ("position", "id", "token", "mask")
    # Where the label belongs to the whole row the table's title has it.
    if any(row.get("label") for table in tables for row in table["rows"]):
        columns += ("label",)
    return columns, tables


def _attended(row: Row) -> int:
    return sum(token.attended for token in row.tokens)


def _table(i: int, row: Row) -> dict[str, Any]:
    title = f"Row {i + 1}: {_attended(row)} of {len(row.tokens)} positions attended"
    if row.label:
        title += f", label {row.label}" + ("" if row.counted else ", not in the loss")
    else:
        title += f", {sum(token.counted for token in row.tokens)} in the loss"
    return {
        "title": title,
        "rows": [
            {"left_out": f"{len(place)} positions more"}
            if isinstance(place, range)
            else _cells(row.tokens[place])
            for place in _shown([(token.attended, token.counted) for token in row.tokens])
        ],
    }


def _cells(token: Token) -> dict[str, Any]:
    return {
        "position": token.position,
        "id": token.id,
        "token": _visible(token.text),
        "mask": int(token.attended),
        "label": _visible(token.label_text) if token.counted else "",
    }


def _shown(states: list[Any]) -> list[int | range]:
    """Return positions near an end or a change of state; those between as ranges."""
    turns = [t for t in range(1, len(states)) if states[t] != states[t - 1]]
    edges = [0, *turns[:EDGES], len(states)]
    near = {t for edge in edges for t in range(edge - AROUND, edge + AROUND)}
    shown: list[int | range] = []
    for t in range(len(states)):
        last = shown[-1] if shown else None
        if t in near:
            shown.append(t)
        elif isinstance(last, range):
            shown[-1] = range(last.start, t + 1)
        else:
            shown.append(range(t, t + 1))
    return shown


def _visible(text: str) -> str:
    """Write blanks and line ends as signs."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
