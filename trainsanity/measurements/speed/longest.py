"""The longest batches that a run can form of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Longest:
    """Batches of rows, the longest first.

    Attributes:
        batches: places of the rows of each.
        lengths: tokens of each batch's longest row.
        chances: the share of the run's batches that are longer than each.
        words: how the run forms its batches.
        size: rows of a batch.
    """

    batches: list[list[int]]
    lengths: list[int]
    chances: list[float]
    words: str
    size: int


@measurement(Cost.STATIC)
def longest(pipeline: Pipeline, scan: Scan) -> Longest:
    """Order the rows as the run's sampler could bring them, the longest batch first.

    Raises:
        Skip: there is no Trainer, or the rows are a stream, or hold no tokens.
    """
    if pipeline.trainer is None:
        raise Skip("a custom training loop forms its batches itself")
    if not is_indexable(pipeline.train_dataset):
        raise Skip("the rows are a stream: its longest row is not known before it is read")
    lengths = lengths_of(scan.train)
    size = min(pipeline.args.train_batch_size, len(lengths))
    if _in_order(pipeline):
        groups = [range(k, min(k + size, len(lengths))) for k in range(0, len(lengths), size)]
        batches = sorted((list(group) for group in groups), key=lambda b: -_top(lengths, b))
        tops = [_top(lengths, batch) for batch in batches]
        chances = [sum(one > top for one in tops) / len(tops) for top in tops]
        return Longest(batches, tops, chances, "rows in their order", size)
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches = [order[k : k + size] for k in range(0, len(order) - size + 1, size)]
    tops = [_top(lengths, batch) for batch in batches]
    return Longest(
        batches,
        tops,
        [_chance(lengths, top, size) for top in tops],
        "rows drawn by a sampler",
        size,
    )


def lengths_of(split: Split) -> list[int]:
    """Return the tokens of each row, by its number in the dataset.

    Raises:
        Skip: the rows hold no tokens, or not all of them were read.
    """
    split.require_tokens()
    if split.rows.sample:
        raise Skip(f"{split.name} was read in part ({split.rows.sample}): its longest row is not "
                   "known")  # fmt: skip
    found: list[int] = split.sequences.tolist()
    return found


def _top(lengths: Sequence[int], batch: Sequence[int]) -> int:
    return max(lengths[row] for row in batch)


def _chance(lengths: Sequence[int], top: int, size: int) -> float:
    """Return the probability that a batch drawn at random holds a row longer than that."""
    shorter = sum(length <= top for length in lengths)
    none = 1.0
    for k in range(size):
        none *= max(shorter - k, 0) / (len(lengths) - k)
    return 1 - none


def _in_order(pipeline: Pipeline) -> bool:
    """Return whether the run reads its rows in their order."""
    from torch.utils.data import SequentialSampler

    from trainsanity.isolation.snapshot import preserved
    from trainsanity.measurements.batches.batch import quiet

    with preserved(pipeline), quiet(pipeline):
        sampler: Any = pipeline.trainer._get_train_sampler()
    return isinstance(sampler, SequentialSampler)
