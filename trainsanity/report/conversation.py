"""Rows as conversations, for a terminal: what the loss supervises is marked, and in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trainsanity.report.console import console, text_of
from trainsanity.report.words import clean

if TYPE_CHECKING:
    from trainsanity.measurements.batches.conversations import (
        Conversation,
        Conversations,
        Part,
        Run,
        Sequence_,
    )

OPEN, CLOSE = "⟦", "⟧"
"""Around targets: what the colour says, for those who see none."""

STYLES = {(True, True): "bold green", (True, False): "green", (False, True): "dim cyan"}
"""By counted and special."""

BAR = 24
"""Columns of the bars by role."""


def render_conversations(
    pipeline_id: str,
    shown: Conversations,
    *,
    rows: Sequence[int],
    width: int = 100,
    color: bool = False,
) -> str:
    """Return rows as text.

    Args:
        pipeline_id: what the pipeline is called.
        shown: all rows that were drawn.
        rows: places among them of those that are written.
        width: columns.
        color: with ANSI colours, which repeat what the marks say.
    """
    out = console(width, color=color)
    out.print(Text(clean(pipeline_id), style="bold"))
    legend = Text()
    legend.append(f"{OPEN}targets of the loss{CLOSE}", "green")
    if color:
        legend.append(", ").append("special tokens", "dim cyan")
    legend.append("; everything else is read and not learnt")
    out.print(legend)
    for place in rows:
        out.print()
        _row(out, shown.rows[place], shown)
    _shares(out, shown)
    if len(rows) < len(shown.rows):
        out.print()
        out.print(Text(f"{len(shown.rows) - len(rows)} more: --rows {len(shown.rows)}", "dim"))
    return text_of(out)


def share(counted: int, tokens: int) -> str:
    """Return how many of some tokens are targets, in words."""
    return f"{counted} of {tokens} tokens in the loss ({counted / max(tokens, 1):.0%})"


def heading_of(row: Conversation, shown: Conversations) -> str:
    """Return what stands above a row."""
    tokens = sum(one.tokens for one in row.sequences)
    counted = sum(one.counted for one in row.sequences)
    order = " in training order" if shown.in_training_order else ""
    parts = [f"row {row.number}{order}: {share(counted, tokens)}"]
    if shown.apart and len(row.sequences) > 1:
        parts.append(f"{len(row.sequences)} documents, told apart by {shown.apart}")
    if row.cut and len(shown.rows) > 1:
        parts.append("as long as rows get: its end may be cut off")
    return "; ".join(parts)


def _row(out: Console, row: Conversation, shown: Conversations) -> None:
    out.print(Text(heading_of(row, shown), style="bold"))
    if {one.title for one in row.sequences} == {"chosen", "rejected"} and out.width >= 80:
        half = out.width // 2 - 1
        out.print(Columns([_panel(one, half) for one in row.sequences], padding=(0, 1)))
        return
    for one in row.sequences:
        if one.title:
            rule = f"── {one.title}: {share(one.counted, one.tokens)} "
            out.print(Text(rule.ljust(out.width, "─"), style="dim"))
        out.print(Padding(_parts(one), (0, 0, 0, 2)))


def _panel(one: Sequence_, width: int) -> Panel:
    title = f"{one.title}: {share(one.counted, one.tokens)}"
    return Panel(_parts(one), title=title, title_align="left", width=width, style="")


def _parts(one: Sequence_) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for part in one.parts:
        table.add_row(Text(part.role, style="bold"), _text(part))
    return table


def _text(part: Part) -> Text:
    text = Text(end="")
    inside = False
    for run in part.runs:
        if run.counted != inside:
            text.append(OPEN if run.counted else CLOSE, "green")
            inside = run.counted
        text.append(visible(run), STYLES.get((run.counted, run.special), ""))
    if inside:
        text.append(CLOSE, "green")
    # What ends a message needs no line of its own.
    text.rstrip()
    return text


def visible(run: Run) -> str:
    """Return the text of a run with line ends and tabs that can be seen."""
    text = run.text.replace("\r", "␍").replace("\t", "⇥").replace("\n", "⏎\n")
    return clean(text)


def _shares(out: Console, shown: Conversations) -> None:
    if not shown.shares:
        return
    out.print()
    out.print(Text(f"targets by role, of {len(shown.rows)} rows that were drawn", style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    for role, (tokens, counted) in sorted(shown.shares.items()):
        part = counted / max(tokens, 1)
        filled = round(part * BAR)
        bar = Text("█" * filled, "green").append("░" * (BAR - filled), "dim")
        table.add_row(
            Text(role, "bold"), bar, Text(f"{part:.0%}"), Text(f"{counted:,} of {tokens:,} tokens")
        )
    out.print(Padding(table, (0, 0, 0, 2)))
