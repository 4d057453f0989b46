"""Columns of a table that tell the class of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.own_scale import ROWS, numbers_of
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array

FEWEST = 32
"""Rows of a table that is looked at: two classes of a coin agree with another once in 2**31."""

RECURS = 8
"""Rows that the second most frequent class has, at the least; a class of a few rows may go with
anything."""


@dataclass(frozen=True)
class ToldTargets:
    """Columns against the targets.

    Attributes:
        split: name of the dataset.
        rows: their number.
        columns: columns that are not constant.
        told: numbers of those by which every row's class is known.
        classes: how many there are.
    """

    split: str
    rows: int
    columns: int
    told: tuple[int, ...]
    classes: int


@measurement(Cost.STATIC)
def told_targets(scan: Scan) -> ToldTargets:
    """Compare each column of a table with the targets of all rows.

    A column tells all where each of its values goes with one class and each class with one value.

    Raises:
        Skip: the rows are no table of numbers with one target each, or few.
    """
    import numpy

    split = scan.train
    if split.content.role != NUMBERS or not FEWEST <= len(split.rows) <= ROWS:
        raise Skip("the rows are no table of numbers, or few")
    values, targets = numbers_of(split), _targets(split)
    if values is None or targets is None or len(values) != len(targets):
        raise Skip("the rows are no table of numbers with one target each")
    varied = [k for k, column in enumerate(values.T) if column.min() < column.max()]
    _, codes, counts = numpy.unique(targets, return_inverse=True, return_counts=True)
    few = len(counts) <= len(targets) // RECURS
    classes = len(counts) if few and len(counts) > 1 and sorted(counts)[-2] >= RECURS else 0
    if not classes:
        raise Skip("the targets are no classes of many rows each")
    told = [k for k in varied if _by_value(values[:, k], codes, classes)]
    return ToldTargets(split.name, len(values), len(varied), tuple(told), classes)


def _targets(split: Split) -> Array | None:
    import numpy

    labels = split.labels
    if labels is None or labels.source is None or labels.kind not in ("integer", "float"):
        return None
    if len(labels.nulls):
        return None
    made = numpy.asarray(labels.source.to_numpy(), dtype=numpy.float64)
    return made if numpy.isfinite(made).all() else None


def _by_value(column: Array, codes: Array, classes: int) -> bool:
    import numpy

    different, places = numpy.unique(column, return_inverse=True)
    return len(different) == classes == len(numpy.unique(places * classes + codes))
