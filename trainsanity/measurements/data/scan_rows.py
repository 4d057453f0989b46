"""A dataset's rows as blocks of Arrow columns, in the order in which they lie in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.errors import UsageError, first_line
from trainsanity.fields import is_indexable
from trainsanity.types import Skip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK_BYTES = 2 << 20
"""Bytes of a block: small enough that its second reading comes from the processor's cache."""

SAMPLE = 1_000
"""Rows taken from a dataset that has no Arrow columns: each has to be made by the user's own code,
and what is wrong with one row in a hundred is among a thousand of them with 99.996 %."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one dataset that are read.

    Attributes:
        name: the dataset's name in the pipeline.
        table: ``pyarrow.Table`` with the columns that were asked for and exist.
        stored: the place in the table of each row, or None if they lie in order.
        numbers: the number in the dataset of each row, or None if they are 0, 1, 2 ...
        sample: how they were chosen, or empty if they are all.
        features: ``datasets.Features``, or None.
    """

    name: str
    table: Any
    stored: Array | None = None
    numbers: Array | None = None
    sample: str = ""
    features: Any = None

    def __len__(self) -> int:
        return len(self.table) if self.stored is None else len(self.stored)

    def number(self, place: int) -> int:
        """The number in the dataset of the row at that place."""
        return int(place if self.numbers is None else self.numbers[place])

    def blocks(
        self, columns: Sequence[str], wanted: Array | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of places and a ``pyarrow.RecordBatch`` with the rows there.

        The places are a slice or an array, to index arrays that have one value per row.  Rows that
        lie side by side are not copied.

        Args:
            columns: of the batches.
            wanted: places of the rows to be read; all by default.
        """
        import numpy

        if self.stored is None and wanted is None:
            at = 0
            for batch in self._batches(columns):
                yield slice(at, at + len(batch)), batch
                at += len(batch)
            return
        places = numpy.arange(len(self)) if wanted is None else wanted
        stored = places if self.stored is None else self.stored[places]
        order = numpy.argsort(stored, kind="stable")
        places, stored = places[order], stored[order]
        at = done = 0
        for batch in self._batches(columns):
            end = done + int(numpy.searchsorted(stored[done:], at + len(batch)))
            if end > done:
                inside = stored[done:end] - at
                whole = len(inside) == len(batch) and bool((numpy.diff(inside) == 1).all())
                yield places[done:end], batch if whole else batch.take(inside)
            at, done = at + len(batch), end

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        table = self.table.select(columns)
        yield from table.to_batches(max_chunksize=max(1, int(BLOCK_BYTES / _row_bytes(table))))

    def read(self, places: Array) -> list[dict[str, Any]]:
        """A few rows as Python values, in the order of ``places``."""
        import numpy

        found: dict[int, dict[str, Any]] = {}
        for where, batch in self.blocks(self.table.column_names, numpy.unique(places)):
            found.update(zip(where.tolist(), batch.to_pylist(), strict=True))
        return [found[int(place)] for place in places]


def _row_bytes(table: Any) -> float:
    """Bytes of a row on average, seen at 16 places: thousands of buffers take long to add up."""
    step = max(1, len(table) // 16)
    pieces = [table.slice(at, 64) for at in range(0, len(table), step)]
    held = float(sum(piece.nbytes for piece in pieces))
    return max(1.0, held / max(1, sum(map(len, pieces))))


def rows_of(name: str, dataset: Any) -> Rows:
    """The rows of a dataset: all of them where they lie in Arrow columns, else a stated sample.

    Raises:
        Skip: its rows have no columns.
        UsageError: it cannot be read.
    """
    inner, chosen = _unwrapped(dataset)
    if _is_arrow(inner):
        return _arrow(name, inner, chosen)
    try:
        return _sampled(name, dataset)
    except (Skip, UsageError):
        raise
    except Exception as error:
        raise UsageError(
            f"{name} raised {type(error).__name__} when its rows were read: {first_line(error)}"
        ) from error


def _unwrapped(dataset: Any) -> tuple[Any, Array | None]:
    """Return what a ``torch.utils.data.Subset`` (``random_split``) chooses from, and its choice."""
    import numpy
    from torch.utils.data import Subset

    if type(dataset) is Subset:
        return dataset.dataset, numpy.asarray(dataset.indices, dtype=numpy.int64)
    return dataset, None


def _is_arrow(dataset: Any) -> bool:
    """Return whether the rows that the Trainer gets are those that are stored."""
    from datasets import Dataset

    return isinstance(dataset, Dataset) and dataset.format["type"] != "custom"


def _arrow(name: str, dataset: Any, chosen: Array | None) -> Rows:
    import numpy

    stored = None
    if dataset._indices is not None:  # select, shuffle, filter, sort
        stored = dataset._indices.column(0).to_numpy().astype(numpy.int64)
    if chosen is not None:
        stored = chosen if stored is None else stored[chosen]
    return Rows(name, dataset.data.table, stored, features=dataset.features)


def _sampled(name: str, dataset: Any) -> Rows:
    import numpy

    numbers, sample = None, ""
    if is_indexable(dataset):
        total = len(dataset)
        if total > SAMPLE:
            numbers = numpy.linspace(0, total - 1, SAMPLE).round().astype(numpy.int64)
            sample = f"a sample of {SAMPLE:,} of {total:,} rows, evenly spaced"
        rows = [dataset[int(k)] for k in (range(total) if numbers is None else numbers)]
    else:
        rows = list(itertools.islice(iter(dataset), SAMPLE))
        sample = f"a sample, the first {len(rows):,} rows" if len(rows) == SAMPLE else ""
    strange = next((row for row in rows if not isinstance(row, Mapping)), None)
    if strange is not None:
        raise Skip(f"the rows of {name} are of {type(strange).__name__}, without named columns")
    return Rows(name, _table(name, rows), None, numbers, sample)


def _table(name: str, rows: list[Mapping[str, Any]]) -> Any:
    """The rows' columns of numbers and text; others are no business of a scan."""
    import pyarrow as pa

    columns = {}
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [_plain(row.get(column)) for row in rows]
        try:
            columns[column] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            if column in ("input_ids", "attention_mask", "label", "labels"):
                raise UsageError(
                    f"column {column!r} of {name} holds values of different kinds: "
                    f"{first_line(error)}"
                ) from error
    return pa.table(columns)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass(eq=False)
class Lists:
    """A block's column of lists: all values end to end, and where each row's begin.

    Attributes:
        values: of the block's rows alone; a view where Arrow allows it.
        offsets: ``[n + 1]``, from 0 to ``len(values)``.
        nulls: rows that are null, or hold a null, as a mask; None if there is none.
    """

    values: Array
    offsets: Array
    nulls: Array | None = None

    @cached_property
    def lengths(self) -> Array:
        """``[n]``; negative ones are for :func:`refuse_negative` to tell."""
        lengths: Array = self.offsets[1:] - self.offsets[:-1]
        return lengths


def refuse_unreadable(column: Any, name: str, *, nested: bool = False) -> None:
    """Refuse a ``pyarrow.ChunkedArray`` that cannot be read.

    Args:
        column: of the dataset.
        name: what messages call it.
        nested: whether it may hold lists of lists: the choices of each row.

    Raises:
        UsageError: it has no lists of numbers, or its buffers contradict each other.
    """
    import pyarrow as pa

    if not _has_numbers(column.type, nested=nested):
        raise UsageError(f"{name} is of type {column.type}; give each row a flat list of numbers")
    try:
        column.validate()
    except pa.ArrowInvalid as error:
        raise UsageError(_corrupt(name, first_line(error))) from error


def lists(column: Any, name: str) -> Lists:
    """The lists of a ``pyarrow.Array``, of whatever list type and width.

    Raises:
        UsageError: rows end where there are no values.
    """
    import pyarrow as pa

    if column.null_count or pa.types.is_fixed_size_list(column.type):
        # No offsets of their own, or null rows, whose extent means nothing.
        sizes = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        return _holed(column.flatten(), _ends(sizes), nulls)
    offsets, values = column.offsets.to_numpy(), column.values
    first, last, size = int(offsets[0]), int(offsets[-1]), len(values)
    if not 0 <= first <= last <= size:
        raise UsageError(_corrupt(name, f"rows end at value {last} of {size}"))
    if first or last < size:
        offsets, values = offsets - first, values.slice(first, last - first)
    if values.null_count:
        return _holed(values, offsets, None)
    return Lists(values.to_numpy(zero_copy_only=False), offsets)


def _holed(values: Any, offsets: Array, nulls: Array | None) -> Lists:
    """Lists of Arrow values, the nulls among them as 0 and their rows named."""
    import numpy
    import pyarrow as pa

    if pa.types.is_null(values.type):
        values = values.cast(pa.int64())
    if values.null_count:
        holes = _ends(values.is_null().to_numpy(zero_copy_only=False))
        inside = holes[offsets[1:]] > holes[offsets[:-1]]
        nulls = inside if nulls is None else numpy.logical_or(nulls, inside)
        values = values.fill_null(0)
    return Lists(values.to_numpy(zero_copy_only=False), offsets, nulls)


def _has_numbers(kind: Any, *, nested: bool) -> bool:
    from pyarrow import types

    a_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not a_list:
        return False
    inner = kind.value_type
    lists_of = types.is_list(inner) or types.is_large_list(inner)
    if nested and (lists_of or types.is_fixed_size_list(inner)):
        inner = inner.value_type  # the choices of a row
    plain = (types.is_integer, types.is_boolean, types.is_null, types.is_floating)
    return any(is_so(inner) for is_so in plain)


def _ends(sizes: Array) -> Array:
    import numpy

    ends: Array = numpy.concatenate([[0], numpy.cumsum(sizes)])
    return ends


def refuse_negative(lengths: Array, name: str) -> None:
    """Raise a UsageError if a row ends before it begins.  Asked once, of all blocks together."""
    if len(lengths) and lengths.min() < 0:
        raise UsageError(_corrupt(name, "a row ends before it begins"))


def _corrupt(name: str, why: str) -> str:
    return f"column {name!r} is corrupted ({why}): write the dataset again, or clear its cache"


def places_of(places: Any, chosen: Any) -> Any:
    """Return those of a block's places (a slice or an array) that a mask or an index chooses."""
    import numpy

    if isinstance(places, slice):
        chosen = numpy.asarray(chosen)
        return (numpy.flatnonzero(chosen) if chosen.dtype == bool else chosen) + places.start
    return places[chosen]


def side_by_side(places: list[Any]) -> Any:
    """The places of blocks that follow each other, as :meth:`Rows.blocks` gives them, in one."""
    import numpy

    if isinstance(places[0], slice):
        return slice(places[0].start, places[-1].stop)
    return numpy.concatenate(places)


def row_of(offsets: Array, at: Any) -> Any:
    """The row of a block that holds the value with that index."""
    import numpy

    return numpy.searchsorted(offsets, at, side="right") - 1


def room(shape: int | tuple[int, ...], dtype: Any) -> Array:
    """Zeros for one or a few values of each row, to be written block by block.

    On pages of their own.  For an array of 4 MB and more numpy asks the kernel for huge pages, and
    where memory is in use the kernel has to move other pages away for each: a fifth to a third of
    the scan's time was spent on that.
    """
    import math
    import mmap

    import numpy

    values = math.prod(shape) if isinstance(shape, tuple) else shape
    size = values * numpy.dtype(dtype).itemsize
    if not size or not hasattr(mmap, "MAP_ANONYMOUS"):
        return numpy.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return numpy.frombuffer(pages, dtype).reshape(shape)


def joined(places: list[Any]) -> Array:
    """The places that blocks had, in one ascending array."""
    import numpy

    return numpy.sort(numpy.concatenate([numpy.zeros(0, numpy.int64), *places]))
