"""Properties of one block of rows, in a fixed number of passes over its buffers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.errors import UsageError
from trainsanity.fields import PLAIN, Content
from trainsanity.measurements.data.scan_content import gathered
from trainsanity.measurements.data.scan_rows import Lists, places_of, row_of

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array

PROBES = 4
"""Places of a row that its signature is made of: rows that agree there and in length are few, and
those are compared whole."""

MULTIPLIERS = (0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1, 0x082EFA98EC4E6C89)
OF_SPAN = 0x452821E638D01377
"""Odd, so that multiplying permutes the 64-bit numbers; nothing up the sleeve: digits of pi."""


@dataclass(eq=False)
class Block:
    """The ids of some rows, and which of them are text.  Each property is computed when used.

    Attributes:
        ids: as stored.
        mask: the attention mask, or None.
        pad: what padding is where there is no mask, or None.
        reach: tokens of each row's longest sequence; None where a row's ids are one sequence.
    """

    ids: Lists
    mask: Lists | None = None
    pad: int | None = None
    reach: Array | None = None

    @classmethod
    def of(
        cls, batch: Any, pad: int | None, name: str = "the dataset", content: Content = PLAIN
    ) -> Block:
        """Return the block of a ``pyarrow.RecordBatch`` with the columns of ``content``.

        Raises:
            UsageError: its buffers cannot be read, or hold no integers.
        """
        ids, reach = gathered(batch, content, name)
        if ids.values.dtype.kind not in "iu":
            raise UsageError(f"input_ids of {name} are of type {ids.values.dtype}; give integers")
        mask = None
        if content.mask is not None and content.mask in batch.schema.names:
            mask, _ = gathered(batch, replace(content, columns=(content.mask,)), name)
        # Columns that a collator joins are no padded rows, whatever ids they end with.
        return cls(ids, mask, pad if content.plain else None, reach)

    @cached_property
    def highest(self) -> tuple[int, bool]:
        """The highest id, -1 in a block without ids, and whether there are ids below 0."""
        return _highest(self.ids.values)

    @cached_property
    def uneven(self) -> Array | None:
        """Rows whose mask has another length than their ids, as a mask; None if none has."""
        mask, ids = self.mask, self.ids
        if mask is None or mask.offsets.tobytes() == ids.offsets.tobytes():
            return None
        uneven: Array = mask.lengths != ids.lengths
        return uneven if uneven.any() else None

    @cached_property
    def kept(self) -> Array | None:
        """Return which ids are attended, as a mask; None if all are."""
        if self.mask is None:
            padded = self.pad is not None and self.pad <= self.highest[0]
            return _text(self.ids, self.pad) if padded else None
        values = self.mask.values
        if self.uneven is not None or not len(values) or values.min():
            return None
        kept: Array = values.astype(bool)
        return kept

    @cached_property
    def extents(self) -> tuple[Array, Array, Array]:
        """Return for each row where its text begins in the ids, its span, and its attended ids."""
        if self.kept is None:
            return self.ids.offsets[:-1], self.ids.lengths, self.ids.lengths
        return _extents(self.kept, self.ids.offsets)

    @cached_property
    def probed(self) -> Array:
        """``[PROBES, n]``: where each row begins, its middle, three quarters on, its last id."""
        import numpy

        begins, spans, _ = self.extents
        at = numpy.empty((PROBES, len(begins)), numpy.int64)
        first, middle, later, last = at
        first[:] = begins
        numpy.add(first, spans, out=last)
        last -= 1  # of an empty row whatever stands there
        numpy.add(first, last, out=middle)
        middle >>= 1
        numpy.add(middle, last, out=later)
        later >>= 1
        return at

    @cached_property
    def probes(self) -> Array:
        """``[PROBES, n]``: the ids there."""
        values, at = self.ids.values, self.probed
        # numpy refuses to take from nothing, with mode="clip" too.
        probes: Array = values.take(at, mode="clip") if len(values) else at.astype(values.dtype)
        return probes

    def rows_with_others(self, ids: Collection[int]) -> Array:
        """Rows that have an attended id which is none of these."""
        import numpy

        others = ~numpy.isin(self.ids.values, list(ids))
        if self.kept is not None:
            others &= self.kept
        rows: Array = numpy.unique(self.holder(numpy.flatnonzero(others)))
        return rows

    def holder(self, at: Any) -> Any:
        """The row that holds the id with that index."""
        return row_of(self.ids.offsets, at)


@dataclass
class Special:
    """Where a special id stands in the attended part of rows.

    Attributes:
        total: occurrences.
        rows: rows that have it.
        leading, trailing: rows that begin or end with it.
        doubled: rows that begin with it twice.
        first_row, first_doubled: places of the first such rows, or None.
    """

    total: int = 0
    rows: int = 0
    leading: int = 0
    trailing: int = 0
    doubled: int = 0
    first_row: int | None = None
    first_doubled: int | None = None

    def add(self, special: int, block: Block, places: Any) -> None:
        """Count the id in a block; one above all of the block's costs nothing."""
        import numpy

        if special > block.highest[0]:
            return
        hits = block.ids.values == special
        if block.kept is not None:
            hits &= block.kept
        at = numpy.flatnonzero(hits)
        if not len(at):
            return
        rows = numpy.unique(block.holder(at))
        begins, spans, _ = block.extents
        some = spans > 0
        leads = (block.probes[0] == special) & some
        second = block.ids.values.take(begins + 1, mode="clip") == special
        doubled = leads & second & (spans > 1)
        self.total += len(at)
        self.rows += len(rows)
        self.leading += int(leads.sum())
        self.trailing += int(((block.probes[-1] == special) & some).sum())
        self.doubled += int(doubled.sum())
        self.first_row = _earlier(self.first_row, places_of(places, rows))
        self.first_doubled = _earlier(self.first_doubled, places_of(places, doubled))


def _highest(values: Array) -> tuple[int, bool]:
    """The highest value (-1 if there is none), and whether there are any below 0, in one pass."""
    if not len(values):
        return -1, False
    unsigned = int(values.view(f"u{values.itemsize}").max())
    if values.dtype.kind == "u" or not unsigned >> 8 * values.itemsize - 1:
        return unsigned, False
    return int(values.max()), True


def signatures(probes: Array, spans: Array) -> Array:
    """A number for each row (``probes`` is ``[PROBES, n]``), equal for equal rows; 0 for empty."""
    import numpy

    signed: Array = spans.astype(numpy.uint64) * numpy.uint64(OF_SPAN)
    for ids, factor in zip(probes, MULTIPLIERS, strict=True):
        signed += ids.astype(numpy.uint64) * numpy.uint64(factor)
    signed[spans == 0] = 0
    return signed


def _text(ids: Lists, pad: int | None) -> Array | None:
    """Return a mask of the text: PAD up to an end is padding; None if there is none."""
    import numpy

    some = ids.lengths > 0
    ends = ids.offsets[:-1][some], ids.offsets[1:][some] - 1
    if not any((ids.values[at] == pad).any() for at in ends):
        return None
    begins, spans, _ = _extents(ids.values != pad, ids.offsets)
    if (spans == ids.lengths).all():
        return None
    steps = numpy.zeros(len(ids.values) + 1, numpy.int64)
    full = spans > 0
    numpy.add.at(steps, begins[full], 1)
    numpy.subtract.at(steps, begins[full] + spans[full], 1)
    text: Array = numpy.cumsum(steps)[:-1].astype(bool)
    return text


def _extents(kept: Array, offsets: Array) -> tuple[Array, Array, Array]:
    """Return for each row where its first kept value is, the span to its last, their number."""
    import numpy

    where = numpy.flatnonzero(kept)
    low, high = numpy.searchsorted(where, offsets[:-1]), numpy.searchsorted(where, offsets[1:])
    count = high - low
    if not len(where):
        return offsets[:-1], count, count
    begins = numpy.where(count > 0, where.take(low, mode="clip"), offsets[:-1])
    ends = numpy.where(count > 0, where.take(high - 1, mode="clip") + 1, begins)
    return begins, ends - begins, count


def _earlier(before: int | None, places: Array) -> int | None:
    if not len(places):
        return before
    first = int(places.min())
    return first if before is None else min(before, first)
