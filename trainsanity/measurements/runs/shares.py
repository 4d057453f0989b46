"""Record which rows each of several processes reads."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.mesh import a_group
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.measurements.runs.row_indices import INDEX, index_loader
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PEEK = 8
"""Batches of a stream that each process reads: the first already show whether two processes read
the same part, and rows of a stream are costly to read."""

SAMPLE = 16
"""Rows by which datasets are compared: in a part of a dataset, rows have other indices."""


CHANCE = 1e-6
"""What is less likely than this, for orders that are drawn anew, is no chance."""


@dataclass(frozen=True)
class Shares:
    """The rows that each process reads, or each group of processes that are to read the same.

    Attributes:
        rows: the number of rows in each process's dataset; empty for a stream.
        same: whether all processes hold the same dataset, so that an index is the same row in all.
        read: for the first process of each group, the indices in the first epoch, or hashes of a
            stream's first rows.
        batch: rows that all processes together read for one micro-batch.
        drops_last: whether a last batch that is not full is left out.
        repeats: how many rows each process reads first in a second epoch, where the sampler
            shuffles and they come as in the first epoch; 0 where they do not.
        group: processes of a group: more than one under tensor, context or sequence parallelism.
        apart: numbers of the processes that read other rows than the first of their group.
    """

    rows: list[int]
    same: bool
    read: list[list[int]] = field(repr=False)
    batch: int
    drops_last: bool
    repeats: list[int] = field(default_factory=list)
    group: int = 1
    apart: tuple[int, ...] = ()

    @property
    def stream(self) -> bool:
        """Return whether the rows are a stream, without indices."""
        return not self.rows


@measurement(Cost.STATIC)
def shares(pipeline: Pipeline) -> Shares:
    """Iterate each process's data loader over one epoch without reading rows.

    Each process reads the first batches of a stream.

    Raises:
        Skip: the loader does not show which rows it reads.
    """
    args, data = pipeline.args, pipeline.train_dataset
    group = a_group(pipeline.trainer)
    processes = max(1, args.world_size // group)
    batch = args.train_batch_size * processes
    drops_last = bool(args.dataloader_drop_last)
    if not is_indexable(data):
        read, apart = _by_group(all_gather(_stream(pipeline)), group)
        return Shares([], False, read, batch, drops_last, group=group, apart=apart)
    with preserved(pipeline):
        known = all_gather((len(data), _sample(data)))
    with index_loader(pipeline) as loader:
        indices: list[int] = []
        for batch_of_indices in loader:
            indices += batch_of_indices[INDEX].tolist()
            if pipeline.progress is not None:
                pipeline.progress(len(indices), len(data) // processes, "rows read")
        if hasattr(loader, "set_epoch"):  # as the Trainer does before the next one
            loader.set_epoch(1)
        batches = itertools.islice(loader, PEEK)
        again = [index for made in batches for index in made[INDEX].tolist()]
    read, apart = _by_group(all_gather(indices), group)
    return Shares(
        [rows for rows, _ in known][::group],
        all(one == known[0] for one in known),
        read,
        batch,
        drops_last,
        all_gather(_repeated(loader, indices, again))[::group],
        group,
        apart,
    )


def _by_group(read: list[list[int]], group: int) -> tuple[list[list[int]], tuple[int, ...]]:
    """Return what the first process of each group reads, and who reads other rows than it."""
    firsts = [number - number % group for number in range(len(read))]
    apart = [k for k, first in enumerate(firsts) if read[k] != read[first]]
    return read[::group], tuple(apart)


def _repeated(loader: Any, first: list[int], again: list[int]) -> int:
    """Return the length of the second order where it is the first one's and the sampler shuffles.

    A sampler that sorts, by length or into a curriculum, may be meant to do so each time.
    """
    from torch.utils.data import DistributedSampler, RandomSampler

    sampler = loader
    while inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None):
        sampler = inner
    known = isinstance(sampler, (DistributedSampler, RandomSampler))
    chance = 1 / math.perm(len(first), len(again))
    same = first[: len(again)] == again and chance < CHANCE
    return len(again) if known and getattr(sampler, "shuffle", True) and same else 0


def _sample(data: Any) -> list[int]:
    """Return hashes of a few rows spread over the data; none if reading a row again differs."""
    raw = data.with_format(None) if hasattr(data, "with_format") else data
    indices = range(0, len(data), max(1, len(data) // SAMPLE))
    once, again = ([_hash(raw[index]) for index in indices] for _ in range(2))
    return once if once == again else []


def _stream(pipeline: Pipeline) -> list[int]:
    """Return hashes of the first rows that this process reads from a stream."""
    trainer = pipeline.trainer

    def indices(rows: list[Any]) -> dict[str, Any]:
        import torch

        return {INDEX: torch.tensor([_hash(row) for row in rows])}

    with preserved(pipeline), quiet(pipeline):
        trainer.data_collator = observed(trainer.data_collator, lambda _call, rows: indices(rows))
        disable_workers(trainer.args)
        loader = trainer.get_train_dataloader()
        try:
            batches = [made[INDEX].tolist() for made in itertools.islice(loader, PEEK)]
        except KeyError:
            raise Skip("the data loader has its own collate_fn") from None
    return [row for made in batches for row in made]


def _hash(row: Any) -> int:
    """Return a 63-bit hash of a row, which fits a signed integer tensor."""
    import xxhash

    text = repr(sorted(row.items())) if isinstance(row, dict) else repr(row)
    return int(xxhash.xxh3_64_intdigest(text.encode(errors="replace"))) >> 1
