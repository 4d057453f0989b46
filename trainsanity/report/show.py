"""Supervised tokens, as a table for people and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from trainsanity.objectives.base import CAUSAL_LM
from trainsanity.report.console import console, text_of
from trainsanity.report.words import clean

if TYPE_CHECKING:
    from trainsanity.measurements.batches.conversations import Conversations
    from trainsanity.measurements.batches.supervision import Row, Supervision, Token

SCHEMA = 1
"""Rises when a key changes its meaning or goes; new keys may come without that."""

RUN = 3
"""Positions that take one line from this many on, where they differ in nothing."""

_COLUMNS = ("position", "id", "token", "attended", "label", "in the loss")


def as_dict(
    pipeline_id: str,
    supervision: Supervision | None,
    rows: int,
    conversations: Conversations | None = None,
    places: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the JSON values of the first rows: by position, as conversations, or both."""
    document: dict[str, Any] = {"schema": SCHEMA, "pipeline": pipeline_id, "holds_rows": True}
    if supervision is not None:
        document |= asdict(supervision)
        document["rows"] = [asdict(row) for row in supervision.rows[:rows]]
    if conversations is not None:
        document["conversations"] = [asdict(conversations.rows[k]) for k in places]
        document["apart"], document["shares"] = conversations.apart, conversations.shares
    return document


def without_rows(document: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values with each row's counts in the place of its tokens and texts."""
    bare = {key: value for key, value in document.items() if key not in ("rows", "conversations")}
    rows = document.get("rows", ())
    return bare | {
        "holds_rows": False,
        "rows": [
            {
                "positions": len(row["tokens"]),
                "attended": sum(token["attended"] for token in row["tokens"]),
                "counted": int(row["counted"]) if row["label"] else _counted(row["tokens"]),
                "of": "row" if row["label"] else "tokens",
            }
            for row in rows
        ],
        "conversations": len(document.get("conversations", ())),
    }


def _counted(tokens: Sequence[dict[str, Any]]) -> int:
    return sum(token["counted"] for token in tokens)


def render_bare(pipeline_id: str, document: dict[str, Any], *, width: int = 100) -> str:
    """Return what :func:`without_rows` keeps, a line a row."""
    out = console(width, color=False)
    task = f"{document['task']}; " if "task" in document else ""
    out.print(Text(f"{clean(pipeline_id)}: {task}rows are left out by --no-rows"))
    for i, row in enumerate(document["rows"]):
        out.print(
            Text(
                f"row {i}: {row['attended']} tokens attended, {row['positions']} positions; "
                + (
                    f"{row['counted']} in the loss"
                    if row["of"] == "tokens"
                    else "in the loss"
                    if row["counted"]
                    else "not in the loss"
                )
            )
        )
    if document["conversations"]:
        out.print(Text(f"{document['conversations']} conversations"))
    return text_of(out)


def render(
    pipeline_id: str, supervision: Supervision, *, rows: int, width: int = 100, color: bool = False
) -> str:
    """Return the first rows, a table each, and what the loss counts in the whole batch.

    Args:
        pipeline_id: what the pipeline is called.
        supervision: what is shown.
        rows: how many rows.
        width: columns.
        color: with ANSI colours, which repeat what the words say.
    """
    out = console(width, color=color)
    every = supervision.rows
    positions = sum(len(row.tokens) for row in every)
    attended = sum(token.attended for row in every for token in row.tokens)
    shift = " (the label of a position is predicted from the one before)"
    out.print(
        Text(
            f"{clean(pipeline_id)}: {supervision.task}; the loss counts {supervision.items} "
            f"{supervision.counts} of the first batch, which has {len(every)} rows and {attended} "
            f"of {positions} positions attended{shift if supervision.task == CAUSAL_LM else ''}"
        )
    )
    for i, row in enumerate(every[:rows]):
        out.print()
        out.print(Text(clean(_heading(i, row, len(every))), style="bold"))
        out.print(_table(row))
    if rows < len(every):
        out.print()
        out.print(Text(f"{len(every) - rows} more: --rows {len(every)}", style="dim"))
    return text_of(out)


def _heading(i: int, row: Row, of: int) -> str:
    attended = sum(token.attended for token in row.tokens)
    title = f"row {i} of {of}: {attended} tokens attended, {len(row.tokens)} positions"
    if row.label:
        return f"{title}; label {row.label}{'' if row.counted else ', not in the loss'}"
    return f"{title}; {sum(token.counted for token in row.tokens)} in the loss"


def _table(row: Row) -> Table:
    per_token = not row.label
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in _COLUMNS if per_token else _COLUMNS[:4]:
        table.add_column(name, justify="right" if name in ("position", "id") else "left")
    for cells, counted in _lines(row.tokens):
        table.add_row(*map(Text, cells[: len(table.columns)]), style="green" if counted else "")
    return table


def _lines(tokens: Sequence[Token]) -> Iterator[tuple[list[str], bool]]:
    for _, run in groupby(tokens, key=lambda t: (t.id, t.attended, t.label, t.counted)):
        same = list(run)
        if len(same) < RUN:
            yield from ((_cells(str(token.position), token), token.counted) for token in same)
            continue
        span = f"{same[0].position}-{same[-1].position}"
        yield _cells(span, same[0]), same[0].counted


def _cells(position: str, token: Token) -> list[str]:
    label = "" if token.label is None else str(token.label)
    # A label that is the token itself is not written out again.
    if token.label_text and token.label_text != token.text:
        label += f" {token.label_text!r}"
    return [
        position,
        str(token.id),
        repr(token.text) if token.text else "",  # quoted: a space in a token has to be visible
        "yes" if token.attended else "no",
        label,
        "yes" if token.counted else "no",
    ]
