"""The label column: what type it has, which values, how many of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..tasks import IGNORED
from .scan_rows import Rows, joined, lists, places_of, refuse_negative, row_of

if TYPE_CHECKING:
    from .scan_rows import Array


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
        codes: a number for each row, equal for rows with equal labels, -1 for null; None for lists.
        values: what the codes stand for.
        counts: rows with each label, the most frequent first; empty for lists.
        widths: fewest and most labels of a row; None unless they are lists.
        uneven: places of rows with more or fewer labels than tokens; for lists.
        silent: places of rows in which every label is ignored; for lists.
        low, high: numbers with the places of rows that hold them, without what is ignored; None if
            there is none.
        not_finite: places of rows with NaN or infinity.
        first_ignored: the place of the first row with an ignored label, or None; for lists.
    """

    column: str
    type: str
    is_list: bool
    kind: str
    nulls: Array
    names: list[str] | None = None
    codes: Array | None = None
    values: Sequence[Any] = ()
    counts: Mapping[Any, int] = field(default_factory=dict)
    widths: tuple[int, int] | None = None
    uneven: Any = ()
    silent: Any = ()
    low: tuple[float, int] | None = None
    high: tuple[float, int] | None = None
    not_finite: Any = ()
    first_ignored: int | None = None

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


class LabelTally:
    """Takes in blocks of the label column, gives :class:`Labels`."""

    def __init__(self, rows: Rows, column: str) -> None:
        import pyarrow as pa

        self.rows, self.column = rows, column
        self.type = rows.table.schema.field(column).type
        self.is_list = pa.types.is_nested(self.type)
        self.nulls: list[Array] = []
        self.uneven: list[Array] = []
        self.silent: list[Array] = []
        self.not_finite: list[Array] = []
        self.widths: list[int] = []
        self.low: tuple[float, int] | None = None
        self.high: tuple[float, int] | None = None
        self.ignored: list[int] = []

    def add(self, places: Any, column: Any, tokens: Array) -> None:
        """Take in a block of lists of labels, beside the number of tokens of each row."""
        import numpy

        found = lists(column, f"{self.column} of {self.rows.name}")
        values, offsets = found.values, found.offsets
        refuse_negative(found.lengths, f"{self.column} of {self.rows.name}")
        if found.nulls is not None:
            self.nulls.append(places_of(places, found.nulls))
        self.widths = [min([*self.widths, int(found.lengths.min())]),
                       max([*self.widths, int(found.lengths.max())])]  # fmt: skip
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

    def labels(self) -> Labels:
        """What was taken in, or the whole column where rows have one label each."""
        if not self.is_list:
            return _singles(self.rows, self.column, self.type)
        return Labels(
            column=self.column,
            type=str(self.type),
            is_list=True,
            kind=_kind(self.type.value_type),
            nulls=joined(self.nulls),
            names=_names(self.rows, self.column),
            widths=(self.widths[0], self.widths[1]) if self.widths else None,
            uneven=joined(self.uneven),
            silent=joined(self.silent),
            low=self.low,
            high=self.high,
            not_finite=joined(self.not_finite),
            first_ignored=self.ignored[0] if self.ignored else None,
        )


def _singles(rows: Rows, column: str, kind: Any) -> Labels:
    import numpy
    import pyarrow as pa

    values = rows.table.column(column)
    if rows.stored is not None:
        values = values.take(pa.array(rows.stored))
    nulls = numpy.flatnonzero(values.is_null().to_numpy()) if values.null_count else joined([])
    codes, known = _coded(values, kind)
    counted = numpy.bincount(codes[codes >= 0] if len(nulls) else codes, minlength=len(known))
    present = numpy.flatnonzero(counted)
    numbers = {int(k): known[k] for k in present if _is_number(known[k])}
    odd = [k for k, value in numbers.items() if not math.isfinite(value)]
    plain = {k: v for k, v in numbers.items() if v != IGNORED and k not in odd}
    low = min(plain, key=plain.__getitem__, default=None)
    high = max(plain, key=plain.__getitem__, default=None)
    return Labels(
        column=column,
        type=str(kind),
        is_list=False,
        kind=_kind(kind),
        nulls=nulls,
        names=_names(rows, column),
        codes=codes,
        values=known,
        counts={
            known[k]: int(counted[k])
            for k in present[numpy.argsort(-counted[present], kind="stable")]
        },
        low=None if low is None else (plain[low], int(numpy.argmax(codes == low))),
        high=None if high is None else (plain[high], int(numpy.argmax(codes == high))),
        not_finite=numpy.flatnonzero(numpy.isin(codes, odd)) if odd else joined([]),
    )


def _coded(values: Any, kind: Any) -> tuple[Array, list[Any]]:
    """Codes and what they stand for; integers of a narrow range without a table."""
    import numpy
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(kind) and len(values) > values.null_count:
        ends = pc.min_max(values).as_py()
        low, high = ends["min"], ends["max"]
        if high - low <= len(values):
            whole = values.fill_null(low - 1) if values.null_count else values
            return whole.to_numpy() - low, list(range(low, high + 1))
    encoded = values.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(numpy.int64)
    return codes, encoded.dictionary.to_pylist()


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
