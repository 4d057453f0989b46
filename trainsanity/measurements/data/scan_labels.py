"""The label column: its type, its values, how many of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.measurements.data.scan_content import innermost
from trainsanity.measurements.data.scan_rows import (
    Rows,
    joined,
    lists,
    places_of,
    refuse_negative,
    row_of,
)
from trainsanity.objectives.base import IGNORED

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of one dataset.

    Attributes:
        column: its name.
        type: its Arrow type, as text.
        is_list: whether a row has several labels.
        kind: ``"integer"``, ``"float"`` or ``"other"``.
        nulls: places of rows without a label.
        names: of a ``datasets.ClassLabel``, or None.
        source: the ``pyarrow.ChunkedArray``, row by row; None for lists.
        values: what the codes stand for.
        counts: rows with each label, the most frequent first; empty for lists.
        widths: fewest and most labels of a row; None unless they are lists.
        uneven: places of rows with more or fewer labels than tokens; for lists.
        silent: places of rows in which every label is ignored; for lists.
        low, high: numbers with the places of rows that hold them, without what is ignored; None if
            there is none.
        not_finite: places of rows with NaN or infinity.
        first_ignored: the place of the first row with an ignored label, or None; for lists.
        is_map: whether a row has lists of lists of them.
        runs: how many rows in a row have the same list, one number for each such run, where all
            lists have as many labels; else empty.
    """

    column: str
    type: str
    is_list: bool
    kind: str
    nulls: Array
    names: list[str] | None = None
    source: Any = None
    values: Sequence[Any] = ()
    counts: Mapping[Any, int] = field(default_factory=dict)
    widths: tuple[int, int] | None = None
    uneven: Any = ()
    silent: Any = ()
    low: tuple[float, int] | None = None
    high: tuple[float, int] | None = None
    not_finite: Any = ()
    first_ignored: int | None = None
    is_map: bool = False
    runs: Sequence[int] = ()

    @cached_property
    def codes(self) -> Array | None:
        """A number for each row, equal for rows with equal labels, -1 for null; None for lists."""
        return None if self.source is None else _coded(self.source, self.source.type)

    def shares(self, size: int) -> Array | None:
        """Share of each class from 0 to ``size - 1`` (``[C]`` float64); None if not countable."""
        import numpy

        if self.is_list or self.kind != "integer":
            return None
        counted = numpy.array([self.counts.get(k, 0) for k in range(size)], dtype=numpy.float64)
        return counted / counted.sum() if counted.sum() else None

    def first(self, value: Any) -> int:
        """The place of the first row with that label."""
        import numpy

        assert self.codes is not None
        return int(numpy.argmax(self.codes == list(self.values).index(value)))


AT_ONCE = 1 << 16
"""Labels that are counted at once: as many as stay in the processor's cache."""


class LabelTally:
    """Accumulate blocks of the label column into :class:`Labels`."""

    def __init__(self, rows: Rows, column: str) -> None:
        import pyarrow as pa

        self.rows, self.column = rows, column
        self.type = rows.table.schema.field(column).type
        self.is_list = pa.types.is_nested(self.type)
        self.item = self.type
        while hasattr(self.item, "value_type"):
            self.item = self.item.value_type
        # Maps, of which each row has a list of lists: nothing says how many tokens they are of.
        self.is_map = self.is_list and self.item != getattr(self.type, "value_type", self.item)
        self.nulls: list[Array] = []
        self.uneven: list[Array] = []
        self.silent: list[Array] = []
        self.not_finite: list[Array] = []
        self.widths: list[int] = []
        self.low: tuple[float, int] | None = None
        self.high: tuple[float, int] | None = None
        self.ignored: list[int] = []
        self.runs: list[int] = []
        self.last: Array | None = None

    def add(self, places: Any, column: Any, tokens: Array) -> None:
        """Take in a block of lists of labels, beside the number of tokens of each row."""
        import numpy

        name = f"{self.column} of {self.rows.name}"
        found = innermost(column, name) if self.is_map else lists(column, name)
        values, offsets = found.values, found.offsets
        refuse_negative(found.lengths, name)
        if found.nulls is not None:
            self.nulls.append(places_of(places, found.nulls))
        self.widths = [min([*self.widths, int(found.lengths.min())]),
                       max([*self.widths, int(found.lengths.max())])]  # fmt: skip
        if not self.is_map and self.widths[0] == self.widths[1] and found.nulls is None:
            self._note_runs(values[offsets[0] : offsets[-1]].reshape(-1, max(1, self.widths[0])))
        if not self.is_map:
            self.uneven.append(places_of(places, found.lengths != tokens))
        counted = values != IGNORED
        if not counted.all():
            place = places_of(places, row_of(offsets, int(counted.argmin())))
            self.ignored = [min([*self.ignored, int(place)])]
        ends = numpy.concatenate([[0], numpy.cumsum(counted)])
        self.silent.append(places_of(places, ends[offsets[1:]] == ends[offsets[:-1]]))
        if not numpy.issubdtype(values.dtype, numpy.integer):
            odd = numpy.flatnonzero(~numpy.isfinite(values))
            self.not_finite.append(places_of(places, numpy.unique(row_of(offsets, odd))))
            counted &= numpy.isfinite(values)
        at = numpy.flatnonzero(counted)
        if not len(at):
            return
        for pick, keep, name in ((numpy.argmin, min, "low"), (numpy.argmax, max, "high")):
            here = at[pick(values[at])]
            place = int(places_of(places, row_of(offsets, here)))
            pair, before = (values[here].item(), place), getattr(self, name)
            setattr(self, name, pair if before is None else keep(before, pair, key=_value))

    def _note_runs(self, rows: Array) -> None:
        """Go on counting rows that are as the one before."""
        import numpy

        if not len(rows):
            return
        new = numpy.ones(len(rows), bool)
        new[1:] = (rows[1:] != rows[:-1]).any(1)
        new[0] = (
            self.last is None or len(self.last) != rows.shape[1] or (rows[0] != self.last).any()
        )
        starts = numpy.flatnonzero(new).tolist()
        if self.runs and (not starts or starts[0]):
            self.runs[-1] += starts[0] if starts else len(rows)
        ends = [*starts[1:], len(rows)]
        self.runs += [end - start for start, end in zip(starts, ends, strict=False)]
        self.last = rows[-1].copy()

    def labels(self) -> Labels:
        """Return the labels, or the whole column where rows have one label each."""
        if not self.is_list:
            return _singles(self.rows, self.column, self.type)
        return Labels(
            column=self.column,
            type=str(self.type),
            is_list=True,
            kind=_kind(self.item),
            nulls=joined(self.nulls),
            names=_names(self.rows, self.column),
            widths=(self.widths[0], self.widths[1]) if self.widths else None,
            uneven=joined(self.uneven),
            silent=joined(self.silent),
            low=self.low,
            high=self.high,
            not_finite=joined(self.not_finite),
            first_ignored=self.ignored[0] if self.ignored else None,
            is_map=self.is_map,
            runs=self.runs if self.widths and self.widths[0] == self.widths[1] else (),
        )


def _singles(rows: Rows, column: str, kind: Any) -> Labels:
    import numpy
    import pyarrow as pa

    values = rows.table.column(column)
    if rows.stored is not None:
        values = values.take(pa.array(rows.stored))
    nulls = numpy.flatnonzero(values.is_null().to_numpy()) if values.null_count else joined([])
    codes, known, counted = None, *_counted(values, kind)
    present = numpy.flatnonzero(counted)
    numbers = {int(k): known[k] for k in present if _is_number(known[k])}
    odd = [k for k, value in numbers.items() if not math.isfinite(value)]
    plain = [v for k, v in numbers.items() if v != IGNORED and k not in odd]
    if odd:
        codes = _coded(values, kind)
    return Labels(
        column=column,
        type=str(kind),
        is_list=False,
        kind=_kind(kind),
        nulls=nulls,
        names=_names(rows, column),
        source=values,
        values=known,
        counts={
            known[k]: int(counted[k])
            for k in present[numpy.argsort(-counted[present], kind="stable")]
        },
        low=_with_place(values, min(plain, default=None)),
        high=_with_place(values, max(plain, default=None)),
        not_finite=joined([]) if codes is None else numpy.flatnonzero(numpy.isin(codes, odd)),
    )


def _with_place(values: Any, value: float | None) -> tuple[float, int] | None:
    """The value and the place of the first row that holds it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if value is None:
        return None
    return value, pc.index(values, pa.scalar(value, values.type)).as_py()


def _narrow(values: Any, kind: Any) -> tuple[int, int] | None:
    """Lowest and highest of integers that lie so close that they can be counted in a table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_integer(kind) or len(values) == values.null_count:
        return None
    ends = pc.min_max(values).as_py()
    return (ends["min"], ends["max"]) if ends["max"] - ends["min"] <= len(values) else None


def _counted(values: Any, kind: Any) -> tuple[list[Any], Array]:
    """Return values that occur, or may occur, and how often, nulls aside."""
    import numpy

    known = values.drop_null() if values.null_count else values
    if (ends := _narrow(values, kind)) is None:
        encoded = known.combine_chunks().dictionary_encode()
        size = len(encoded.dictionary)
        return encoded.dictionary.to_pylist(), numpy.bincount(encoded.indices, minlength=size)
    low, high = ends
    counted = numpy.zeros(high - low + 1, numpy.int64)
    for at in range(0, len(known), AT_ONCE):
        some = known.slice(at, AT_ONCE).to_numpy()
        counted += numpy.bincount(some - low if low else some, minlength=len(counted))
    return list(range(low, high + 1)), counted


def _coded(values: Any, kind: Any) -> Array:
    """Return for each row the index of its value in what :func:`_counted` returns; -1 for null."""
    import numpy

    if (ends := _narrow(values, kind)) is not None:
        low, _ = ends
        whole = values.fill_null(low - 1) if values.null_count else values
        numbers: Array = whole.to_numpy() - low
        return numbers
    encoded = values.combine_chunks().dictionary_encode()
    codes: Array = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(numpy.int64)
    return codes


def _kind(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "integer"
    return "float" if pa.types.is_floating(kind) else "other"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(pair: tuple[float, int]) -> float:
    return pair[0]


def _names(rows: Rows, column: str) -> list[str] | None:
    feature = (rows.features or {}).get(column)
    feature = getattr(feature, "feature", feature)  # of a list
    names = getattr(feature, "names", None)
    return None if names is None else list(names)
