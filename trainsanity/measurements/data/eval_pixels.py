"""Pixels of training and of evaluation data, beside each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import PIXELS, is_indexable, role_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ROWS = 16
"""Pictures of each: one without any dark, or without any bright place, is rare, sixteen are not."""

IMAGE = 4
"""Dimensions of a batch of images, at the least."""


CHANNELS = 3
"""Red, green and blue."""


@dataclass(frozen=True)
class Pixels:
    """Values of a few pictures.

    Attributes:
        name: of the data.
        lowest, highest: of all values.
        negative: share of values below 0.
        colours: mean of each of three channels over the pictures, and its standard error; empty
            where there are not three.
    """

    name: str
    lowest: float
    highest: float
    negative: float
    colours: tuple[tuple[float, float], ...] = ()

    def apart(self, channel: int, other: Pixels, theirs: int) -> float:
        """Return how far a channel's mean is from one of the other's, in standard errors."""
        (mean, error), (their_mean, their_error) = self.colours[channel], other.colours[theirs]
        both = math.hypot(error, their_error)
        return abs(mean - their_mean) / both if both else math.inf


@measurement(Cost.STATIC)
def eval_pixels(pipeline: Pipeline) -> list[Pixels]:
    """Collate pictures from all over the training data, and from each evaluation set.

    Raises:
        Skip: there is no Trainer or no evaluation data, or no pictures are in a batch.
    """
    if pipeline.trainer is None or not pipeline.eval_dataset:
        raise Skip("there is no evaluation data that a Trainer collates")
    evals = pipeline.eval_dataset
    named = evals if isinstance(evals, Mapping) else {"eval_dataset": evals}
    with preserved(pipeline), quiet(pipeline):
        every = {"train_dataset": pipeline.train_dataset, **named}
        return [_pixels(pipeline, name, data) for name, data in every.items()]


def _pixels(pipeline: Pipeline, name: str, data: Any) -> Pixels:
    if not is_indexable(data) or len(data) < ROWS:
        raise Skip(f"{name} has fewer than {ROWS} rows, or is a stream")
    rows = [data[k * len(data) // ROWS] for k in range(ROWS)]
    try:
        made = pipeline.data_collator(copy.deepcopy(rows))
    except Exception as error:  # columns that the Trainer removes, for one
        raise Skip(f"the collator does not take rows of {name} as they are") from error
    values: list[Tensor] = [
        value.float()
        for key, value in (made.items() if isinstance(made, Mapping) else ())
        if role_of(key) == PIXELS and getattr(value, "ndim", 0) >= IMAGE
    ]
    if not values:
        raise Skip("a batch has no pixels")
    one = values[0]
    return Pixels(
        name,
        float(one.min()),
        float(one.max()),
        float((one < 0).float().mean()),
        _colours(one),
    )


def _colours(pictures: Tensor) -> tuple[tuple[float, float], ...]:
    """Return mean and standard error of each channel over ``[B, 3, H, W]`` or ``[B, H, W, 3]``."""
    if pictures.ndim != IMAGE:
        return ()
    if pictures.shape[1] != CHANNELS:
        pictures = pictures.movedim(-1, 1)
    if pictures.shape[1] != CHANNELS:
        return ()
    means = pictures.double().mean((2, 3))
    errors = means.std(0) / len(means) ** 0.5
    return tuple(zip(means.mean(0).tolist(), errors.tolist(), strict=True))
