"""Read the even parts of a large log in columns, by Arrow's CSV reader.

A log of millions of entries is nearly always the same line with other numbers. A block of such
lines is split at its commas; what stands around the numbers is compared with the block's first
line, and the numbers are taken as arrays. Each other block is handed on line by line.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from trainsanity.diagnose.entries import SUMMARY, Entry, Extremes, Log, field_of
from trainsanity.diagnose.formats import Line

LARGE = 32 * 2**20
"""Bytes of the smallest log that is read so: Arrow takes a fifth of a second and 40 MiB to import,
and so many bytes some five seconds line by line."""

BLOCK = 2**21
"""Bytes that are read at once; with half of it, Arrow takes a third longer."""

FIRST = 2**16
"""Bytes at the beginning that are read line by line: a log's header, and what shows its format."""

AHEAD = 2
"""Blocks that are parsed while another's entries are added, each in a thread of its own."""

_CELL = re.compile(r"""(\{?\s*(['"])([^'"]+)\2\s*:\s*(['"]?))[^'"\s{},:]+(\4\}?)""")
"""One key and number of a line that was split at its commas."""


def lines_between(
    stream: BinaryIO, log: Log, pieces: Callable[[io.TextIOWrapper, int], Iterator[Line]]
) -> Iterator[Line]:
    """Yield the lines that have to be read one by one; add to the log what is between them.

    Args:
        stream: a log of lines in UTF-8.
        log: gets the entries of even blocks, each when the lines before it have been taken.
        pieces: yields the lines of a text with their numbers, given the first one's.
    """
    number = 1
    for block, rows in _parsed(stream):
        if rows is None:
            text = io.TextIOWrapper(io.BytesIO(block), encoding="utf-8-sig", errors="replace")
            for here, line in pieces(text, number):
                yield here, line
                number = here + line.endswith("\n")
            continue
        # Whether a run goes on or starts again, and whether the log ends in an entry, is asked of
        # the first and the last line.
        yield number, rows.line(0)
        log.add_between(rows.count - 2, rows.losses, rows.norms, rows.entries_from(number, 1))
        number += rows.count
        yield number - 1, rows.line(rows.count - 1)


def _parsed(stream: BinaryIO) -> Iterator[tuple[bytes, Rows | None]]:
    """Yield blocks of whole lines, and the rows of those that are even."""
    waiting: deque[tuple[bytes, Future[Rows | None]]] = deque()
    with ThreadPoolExecutor(AHEAD) as threads:
        try:
            for number, block in enumerate(_blocks(stream)):
                if not number:
                    yield block, None
                    continue
                waiting.append((block, threads.submit(rows_of, block)))
                if len(waiting) > AHEAD:
                    before, rows = waiting.popleft()
                    yield before, rows.result()
            for block, rows in waiting:
                yield block, rows.result()
        finally:
            for _, rows in waiting:
                rows.cancel()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    size, rest = FIRST, b""
    while piece := stream.read(size):
        piece = rest + piece
        # A line that is longer than a block is handed on in parts.
        end = piece.rfind(b"\n") + 1 or len(piece)
        yield piece[:end]
        size, rest = BLOCK, piece[end:]
    if rest:
        yield rest


@dataclass
class Rows:
    """The lines of a block that are alike.

    Attributes:
        cells: what stands between their commas, by column.
        values: their numbers, by the entry's field.
        rates: the learning rates as they are written; None if there are none.
        losses, norms: the extremes of all lines but the first and the last; None without norms.
    """

    cells: list[Any]
    values: dict[str, Any]
    rates: Any
    losses: Extremes
    norms: Extremes | None

    @property
    def count(self) -> int:
        """Return the number of lines."""
        return len(self.cells[0])

    def line(self, index: int) -> str:
        """Return a line as it stands in the log."""
        return ",".join(cells[index].as_py() for cells in self.cells) + "\n"

    def entries_from(self, number: int, first: int) -> Callable[[int], Entry]:
        """Return what makes the entry at an index, counted from the line ``first``."""

        def entry(index: int) -> Entry:
            at = first + index
            made = Entry(f"line {number + at}")
            for name, numbers in self.values.items():
                setattr(made, name, int(numbers[at]) if name == "step" else float(numbers[at]))
            if self.rates is not None:
                made.rate_text = self.rates[at].as_py()
            return made

        return entry


def rows_of(block: bytes) -> Rows | None:
    """Return the rows of a block of lines; None if they are not alike, or their steps go back."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    # tensor(2.5) is a number elsewhere, and Arrow takes nan(1) for one.
    if not block.isascii() or b"\r" in block or b"(" in block or not block.endswith(b"\n"):
        return None
    template = _template(block[: block.index(b"\n")].decode())
    if template is None:
        return None
    cells = _cells(block, len(template))
    if cells is None or len(cells[0]) < 3:
        return None
    values, rates = {}, None
    for column, (name, before, after) in zip(cells, template, strict=True):
        text = _between(column, before, after)
        numbers = None if text is None else _numbers(text)
        if numbers is None:
            return None
        if name is not None:
            values[name] = numbers
        if name == "learning_rate":
            rates = text
    if not _goes_on(values):
        return None
    norms = values.get("grad_norm")
    inside = slice(1, -1)
    return Rows(
        cells,
        values,
        rates,
        _extremes(values["loss"][inside]),
        None if norms is None else _extremes(norms[inside]),
    )


def _template(line: str) -> list[tuple[str | None, str, str]] | None:
    """Return each column's field, and what stands before and after its number."""
    columns, keys = [], []
    cells = line.split(",")
    for number, cell in enumerate(cells):
        match = _CELL.fullmatch(cell)
        if match is None:
            return None
        before, _, key, _, after = match.groups()
        opens, closes = before.startswith("{"), after.endswith("}")
        if opens != (number == 0) or closes != (number == len(cells) - 1):
            return None
        keys.append(key)
        columns.append((field_of(key), before, after))
    names = [name for name, *_ in columns if name is not None]
    if SUMMARY in keys or len({*keys}) < len(keys) or len({*names}) < len(names):
        return None
    return columns if "loss" in names and "eval_loss" not in names else None


def _cells(block: bytes, columns: int) -> list[Any] | None:
    import pyarrow
    from pyarrow import csv

    names = [str(number) for number in range(columns)]
    try:
        table = csv.read_csv(
            pyarrow.BufferReader(block),
            csv.ReadOptions(
                column_names=names, block_size=len(block) + 1, use_threads=False
            ),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), check_utf8=False
            ),
        )  # fmt: skip
    except pyarrow.ArrowInvalid:  # another number of cells
        return None
    # One chunk each: a table has one for each block of its own.
    return [table[name].chunk(0) for name in names]


def _between(column: Any, before: str, after: str) -> Any:
    """Return what stands between two texts in all cells; None if any lacks one of them."""
    from pyarrow import compute

    if not compute.all(compute.starts_with(column, before)).as_py():
        return None
    if after and not compute.all(compute.ends_with(column, after)).as_py():
        return None
    return compute.utf8_slice_codeunits(column, len(before), -len(after) if after else None)


def _numbers(text: Any) -> Any:
    """Return the numbers as an array; None if any text is none."""
    import pyarrow

    try:
        return text.cast(pyarrow.float64()).to_numpy()
    except pyarrow.ArrowInvalid:
        return None


def _goes_on(values: dict[str, Any]) -> bool:
    """Return whether each line comes after the one before it, and none is printed twice."""
    import numpy

    steps, epochs = values.get("step"), values.get("epoch")
    if steps is not None:
        whole = bool((steps == numpy.floor(steps)).all())  # also false of nan
        return whole and bool((steps[1:] > steps[:-1]).all())
    return epochs is None or bool((epochs[1:] >= epochs[:-1]).all())


def _extremes(values: Any) -> Extremes:
    import numpy

    finite = numpy.isfinite(values)
    bad = numpy.flatnonzero(~finite)
    good = values[finite]
    return Extremes(
        low=float(good.min()) if len(good) else numpy.inf,
        high=float(good.max()) if len(good) else -numpy.inf,
        bad=len(bad),
        first_bad=int(bad[0]) if len(bad) else None,
        zeros=int((values == 0).sum()),
    )
