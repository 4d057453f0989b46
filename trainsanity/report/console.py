"""The console and the tables that text reports are laid out with."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

EMPHASIZED = ("fix", "NOTE")
"""Labels of the fields that are read first."""


def console(width: int, *, color: bool) -> Console:
    """Return a console that keeps what is printed; see :func:`text_of`.

    Markup and emoji codes are off: whatever comes from the data is text.
    """
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        force_jupyter=False,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def text_of(printed: Console) -> str:
    """Return what was printed, without the blanks that pad table cells to their column."""
    file = printed.file
    assert isinstance(file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def heading(out: Console, text: str) -> None:
    """Print an empty line and a heading."""
    out.print()
    out.print(Text(text, style="bold underline"))


def indented(out: Console, what: Text | Table) -> None:
    """Print two columns to the right."""
    out.print(Padding(what, (0, 0, 0, 2)))


def fields(out: Console, rows: Iterable[tuple[str, str]], *, prose: bool = False) -> None:
    """Print labels and values in two columns; nothing if there are none.

    Args:
        out: where to.
        rows: the labels and values.
        prose: labels are words and no names: long ones are wrapped, so that values have room.
    """
    table = grid(2)
    table.columns[0].min_width = 8  # The labels of all findings end in one column.
    if prose:
        table.columns[0].no_wrap = False
        table.columns[0].max_width = out.width // 4
    for label, value in rows:
        table.add_row(Text(label, style="bold" if label in EMPHASIZED else ""), Text(value))
    if table.rows:
        indented(out, table)


def grid(columns: int) -> Table:
    """Return a table without lines, of which only the last column wraps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
