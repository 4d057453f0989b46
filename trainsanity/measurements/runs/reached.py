"""Which rows of the training data one epoch of the Trainer's sampler can reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.measurements.runs.row_indices import INDEX, index_loader
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

AT_MOST = 20_000
"""Rows that are drawn: a sampler that reaches a tenth of them is seen long before."""


@dataclass(frozen=True)
class Reached:
    """The rows that a sampler draws.

    Attributes:
        rows: of the training data.
        drawn: how many were drawn.
        whole: the epoch ended with them; samplers of policies repeat each row, one after another.
        distinct: how many different ones are among them.
        weights: how many weights torch's ``WeightedRandomSampler`` has; None of another.
        sampler: its class.
    """

    rows: int
    drawn: int
    whole: bool
    distinct: int
    weights: int | None
    sampler: str


@measurement(Cost.STEP)
def reached(pipeline: Pipeline) -> Reached:
    """Draw rows from the Trainer's own data loader for an epoch; no row is read.

    Raises:
        Skip: there is no Trainer, or the rows have no indices.
    """
    data: Any = pipeline.train_dataset
    if pipeline.trainer is None:
        raise Skip("a custom training loop chooses its rows itself")
    if not is_indexable(data):
        raise Skip("the rows are a stream: which there are is not known")
    if pipeline.other_processes:
        raise Skip("each process draws a part of the rows")
    with index_loader(pipeline) as loader:
        sampler = _innermost(getattr(loader, "batch_sampler", None))
        weights = _weights(sampler)
        drawn: list[int] = []
        for batch in loader:
            drawn += batch[INDEX].tolist()
            if len(drawn) >= AT_MOST:
                break
    return Reached(
        len(data),
        len(drawn),
        len(drawn) < AT_MOST,
        len(set(drawn)),
        weights,
        type(sampler).__name__,
    )


def _weights(sampler: Any) -> int | None:
    """Return how many weights a sampler has that draws rows by them as torch's does."""
    from torch.utils.data import WeightedRandomSampler

    if not isinstance(sampler, WeightedRandomSampler):
        return None
    own = type(sampler).__iter__ is WeightedRandomSampler.__iter__
    return len(sampler.weights) if own else None


def _innermost(sampler: Any) -> Any:
    """Return the sampler of rows inside those that make batches or shards of them."""
    while True:
        inner = getattr(sampler, "sampler", None) or getattr(sampler, "batch_sampler", None)
        if inner is None or inner is sampler:
            return sampler
        sampler = inner
