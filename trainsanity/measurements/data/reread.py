"""The first rows of the datasets, read several times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import PIXELS, is_indexable, role_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ROWS = 8
TIMES = 6
"""Readings of a row.  Flips at odds of one half are all alike in 3 % of rows, and in none of 8."""

HELD_OUT = 2
"""Readings of a row of the evaluation data."""

MAPS = ("labels", "label", "mask_labels")
"""Columns in which a row has a class for each pixel."""

Row = dict[str, "Tensor"]


@dataclass
class Reread:
    """Rows as tensors, without what is no number.

    Attributes:
        train: each row's readings, of the training data.
        held_out: each row's readings, by the name of the evaluation data.
    """

    train: list[list[Row]] = field(default_factory=list)
    held_out: dict[str, list[list[Row]]] = field(default_factory=dict)


@measurement(Cost.STATIC)
def reread(pipeline: Pipeline) -> Reread:
    """Read the first rows of the training and of the evaluation data several times.

    A row of a table without a transform is read once, since it cannot change, and so is one of the
    training data that has no map.
    """
    seen = Reread()
    train = pipeline.train_dataset
    evaluation = getattr(pipeline.trainer, "eval_dataset", None)
    named = evaluation if isinstance(evaluation, Mapping) else {"eval_dataset": evaluation}
    with preserved(pipeline):
        seen.train = _read(train, TIMES, of_maps=True)
        for name, data in named.items():
            if data is not None:
                seen.held_out[str(name)] = _read(data, HELD_OUT)
    return seen


def _read(data: Any, times: int, *, of_maps: bool = False) -> list[list[Row]]:
    if data is None or not is_indexable(data):
        return []
    read = [[_tensors(data[k])] for k in range(min(ROWS, len(data)))]
    for k, readings in enumerate(read):
        if not _is_table(data) and (not of_maps or all(picture_and_map(readings[0]))):
            readings += [_tensors(data[k]) for _ in range(times - 1)]
    return read


def picture_and_map(row: Row) -> tuple[str, str]:
    """Return the columns of pixels and of a map of the same height and width, or nothing."""
    labels = next((name for name in MAPS if name in row and row[name].dim() >= 2), "")
    if labels:
        for name, value in row.items():
            size = value.shape[-2:] == row[labels].shape[-2:]
            if name != labels and role_of(name) == PIXELS and value.dim() == 3 and size:
                return name, labels
    return "", ""


def _is_table(data: Any) -> bool:
    """Return whether rows are read from Arrow as they are, with no function in between."""
    return hasattr(data, "column_names") and getattr(data, "_format_type", "custom") != "custom"


def _tensors(row: Any) -> Row:
    if not isinstance(row, Mapping):
        return {}
    found: Row = {}
    for name, value in row.items():
        made = _tensor(value)
        if made is not None:
            found[name] = made.clone() if made is value else made
    return found


def _tensor(value: Any) -> Tensor | None:
    import torch

    if torch.is_tensor(value):
        return value
    if isinstance(value, bool | int | float):
        return torch.tensor(value)
    if not isinstance(value, list | tuple) and not hasattr(value, "__array__"):
        return None
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def changing(readings: Sequence[Row]) -> list[str]:
    """Return the columns that differ between readings of one row."""
    import torch

    first = readings[0]
    return [
        name
        for name in first
        if any(
            name not in other
            or other[name].shape != first[name].shape
            or not torch.equal(other[name], first[name])
            for other in readings[1:]
        )
    ]
