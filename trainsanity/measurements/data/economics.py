"""Cost of padding over the whole dataset, by multiple and by the order of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.padding import MULTIPLES, Padding, round_up
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainsanity.pipeline import Pipeline

    Array = NDArray[Any]

GROUPED = 100_000
"""Lengths that are grouped as the Trainer would: it groups 50 steps at a time, so that a share of a
large dataset is grouped as the whole is."""


@dataclass(frozen=True)
class Economics:
    """Share of positions that are padding, expected over an epoch.

    Attributes:
        counted: how many rows this is computed from, in words.
        drawn: by multiple (1 is none), batches drawn at random.
        grouped: by multiple, batches grouped by length as the Trainer does it.
        least: all rows sorted by length, no multiple.
        by_length: whether the Trainer groups by length now.
    """

    counted: str
    drawn: dict[int, float]
    grouped: dict[int, float]
    least: float
    by_length: bool

    @property
    def now(self) -> dict[int, float]:
        """The order in use, by multiple."""
        return self.grouped if self.by_length else self.drawn


@measurement(Cost.STATIC)
def economics(pipeline: Pipeline, batch: Batch, padding: Padding, scan: Scan) -> Economics:
    """Compute the waste from the lengths of the rows alone."""
    import numpy

    if batch.by_loss:  # the rows are texts, and the loss tokenizes those of a step
        lengths = numpy.array(batch.lengths)
        counted, histogram = f"{len(lengths)} rows of the first step", numpy.bincount(lengths)
    else:
        scan.train.require_tokens()
        lengths, histogram = scan.train.sequences, scan.train.histogram
        counted = scan.train.counted
    args = pipeline.args
    size = min(len(batch.micro_batches[0].rows), len(lengths))
    multiples = dict.fromkeys((*MULTIPLES, padding.multiple or 1))
    step = size * getattr(args, "gradient_accumulation_steps", 1)
    grouped = grouped_lengths(lengths[:: max(1, len(lengths) // GROUPED)], step)
    strategy = getattr(args, "train_sampling_strategy", None)
    return Economics(
        counted=counted,
        drawn={m: expected_waste(histogram, size, m) for m in multiples},
        grouped={m: waste(grouped, size, m) for m in multiples},
        least=waste(numpy.sort(lengths), size, 1),
        by_length=strategy == "group_by_length" or bool(getattr(args, "group_by_length", False)),
    )


def expected_waste(histogram: Array, size: int, multiple: int) -> float:
    """The waste of batches of ``size`` rows drawn without replacement, exactly.

    All of a batch are among the k shortest of N rows with probability
    ``prod_j (k - j) / (N - j)``, j < size; that is the distribution of the longest, and
    ``1 - mean length / mean padded length`` the waste.

    Args:
        histogram: number of rows of each length from 0.
        size: rows of a batch.
        multiple: widths are rounded up to it.
    """
    import numpy

    lengths, shorter = numpy.arange(len(histogram)), histogram.cumsum()
    rows = shorter[-1]
    factors = [numpy.clip(shorter - j, 0, None) / (rows - j) for j in range(size)]
    probability = numpy.diff(numpy.prod(factors, axis=0), prepend=0.0)
    width = probability @ round_up(lengths, multiple)
    return 1 - float(histogram @ lengths / rows / width)


def waste(lengths: Array, size: int, multiple: int) -> float:
    """The waste of batches of ``size`` rows in this order."""
    import numpy

    starts = numpy.arange(0, len(lengths), size)
    widths = round_up(numpy.maximum.reduceat(lengths, starts), multiple)
    rows = numpy.diff(starts, append=len(lengths))
    return 1 - float(lengths.sum(dtype=numpy.int64) / (rows @ widths.astype(numpy.int64)))


def grouped_lengths(lengths: Array, step: int) -> Array:
    """Lengths in an order in which the Trainer's own sampler brings them.

    Args:
        lengths: of the rows.
        step: rows of an optimizer step, which is what the sampler takes for a batch.
    """
    import numpy
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices(lengths.tolist(), step, generator=generator)
    return numpy.asarray(lengths[order])
