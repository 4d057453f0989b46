"""Means and deviations of the numbers that evaluation rows hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array

FEWEST = 16
"""Rows from which a mean of exactly 0 is no chance."""

VALUES = 10
"""Different values of a column of measured numbers; categories have fewer."""

ROWS = 200_000
"""Rows of a split that is looked at: the mean of more is next to that of the training data."""


@dataclass(frozen=True)
class OwnScale:
    """How far the columns of a split are from a mean of 0 and a deviation of 1.

    Attributes:
        split: its name.
        rows: their number.
        columns: how many columns of numbers were compared.
        mean: the greatest absolute mean of a column.
        deviation: the greatest distance of a column's deviation from 1, with n or n - 1.
        same: the split holds the training data's numbers.
    """

    split: str
    rows: int
    columns: int
    mean: float
    deviation: float
    same: bool


@measurement(Cost.STATIC)
def own_scales(scan: Scan) -> list[OwnScale]:
    """Compute mean and deviation of each column of measured numbers in the evaluation data.

    Raises:
        Skip: there is none, or the rows hold no columns of numbers.
    """
    if not scan.evals:
        raise Skip("there is no evaluation data")
    found = [one for split in scan.evals if (one := _scale(scan.train, split)) is not None]
    if not found:
        raise Skip("the evaluation data has no columns of measured numbers, or few rows")
    return found


def _scale(train: Split, split: Split) -> OwnScale | None:
    import numpy

    # A table's numbers are in a few columns; what has an axis of time or place is no table.
    if split.content.role != NUMBERS or split.rows.sample or not FEWEST <= len(split.rows) <= ROWS:
        return None
    values = numbers_of(split)
    if values is None:
        return None
    varied = [k for k, column in enumerate(values.T) if len(numpy.unique(column)) >= VALUES]
    if not varied:
        return None
    chosen = values[:, varied]
    apart = [numpy.abs(chosen.std(0, ddof=ddof) - 1).max() for ddof in (0, 1)]
    own = numbers_of(train) if len(train.rows) == len(split.rows) else None
    return OwnScale(
        split.name,
        len(values),
        len(varied),
        float(numpy.abs(chosen.mean(0)).max()),
        float(min(apart)),
        own is not None and own.shape == values.shape and bool((own == values).all()),
    )


def numbers_of(split: Split) -> Array | None:
    """Return the fractions of all rows, ``[n, columns]``; None if rows differ in how many."""
    import numpy
    import pyarrow

    parts: list[Any] = []
    for name in split.content.columns:
        kind = split.rows.table.schema.field(name).type
        wide = pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind)
        if not pyarrow.types.is_floating(kind.value_type if wide else kind):
            continue
        pieces = []
        for _, batch in split.rows.blocks([name]):
            column = batch.column(name)
            flat = column.flatten() if wide else column
            if flat.null_count or not len(column) or len(flat) % len(column):
                return None
            pieces.append(flat.to_numpy(zero_copy_only=False).reshape(len(column), -1))
        if len({piece.shape[1] for piece in pieces}) != 1:
            return None
        parts.append(numpy.concatenate(pieces).astype(numpy.float64))
    return numpy.concatenate(parts, 1) if parts else None
