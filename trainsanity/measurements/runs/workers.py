"""Have several data loader workers make batches of the same rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.batch_hash import hash_of
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

TIMES = 3
"""Batches of the same rows that each worker makes in an epoch."""

PATIENCE = 120
"""Seconds after which a worker that returns no batch counts as stuck."""


@dataclass(frozen=True)
class Workers:
    """Hashes of the same rows, collated by several workers in two epochs.

    Attributes:
        count: ``dataloader_num_workers``.
        made: by epoch and worker, the hash of each batch.
    """

    count: int
    made: list[list[list[str]]]

    @property
    def random(self) -> bool:
        """Return whether the same rows give different batches."""
        return len({one for epoch in self.made for worker in epoch for one in worker}) > 1


@measurement(Cost.RUN)
def workers(pipeline: Pipeline) -> Workers:
    """Have each of the Trainer's workers collate the first rows a few times, in two epochs.

    Raises:
        Skip: there is no Trainer, or the rows have no indices.
    """
    import torch

    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop reads its rows itself")
    count = trainer.args.dataloader_num_workers
    if not count:
        return Workers(0, [])
    if not is_indexable(pipeline.train_dataset):
        raise Skip("the rows are a stream: each worker reads its own part of it")
    with preserved(pipeline), quiet(pipeline), warnings.catch_warnings():
        # Python 3.12 and newer warn of forking beside torch's threads; the Trainer forks, too.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        loader = trainer.get_train_dataloader()
        rows = list(range(min(trainer.args.train_batch_size, len(pipeline.train_dataset))))
        # Workers take turns, so that batch k is made by worker k % count.
        again = torch.utils.data.DataLoader(
            loader.dataset,
            batch_sampler=[rows] * (TIMES * count),
            collate_fn=loader.collate_fn,
            num_workers=count,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=PATIENCE,
        )
        made = []
        for _ in range(2):
            hashes = [hash_of(batch) for batch in again]
            made.append([hashes[worker::count] for worker in range(count)])
    return Workers(count, made)
