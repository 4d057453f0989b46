"""Maps with a class for each pixel, of rows from all over the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import PIXELS, is_indexable, role_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ROWS = 32


@dataclass(frozen=True)
class LabelMaps:
    """Whole numbers, ``[H, W]`` each."""

    maps: list[Tensor]


@measurement(Cost.STATIC)
def label_maps(pipeline: Pipeline) -> LabelMaps:
    """Read the maps of some rows of the training data, as far apart as can be.

    Pictures that follow each other may be slices of one body, of which the first show nothing.

    Raises:
        Skip: rows have none beside their pixels.
    """
    import torch

    data = pipeline.train_dataset
    found: list[Tensor] = []
    with preserved(pipeline):
        size = len(data) if is_indexable(data) else 0
        for k in range(min(ROWS, size)):
            row: Any = data[k * size // min(ROWS, size)]
            value = row.get("labels") if isinstance(row, Mapping) else None
            pixels = value is not None and any(role_of(name) == PIXELS for name in row)
            if not pixels or isinstance(value, str | int | float):
                break
            try:
                made = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError):
                break
            if made.dim() != 2 or min(made.shape) < 3 or made.is_floating_point():
                break
            found.append(made.long())
    if not found:
        raise Skip("rows have no map of classes beside their pixels")
    return LabelMaps(found)
