"""TS906 loop.workers_do_not_repeat_random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.workers import Workers
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS906",
    "loop.workers_do_not_repeat_random",
    cost=Cost.RUN,
    needs=("trainer",),
    rules_out="data workers",
)
def workers_do_not_repeat_random(
    pipeline: Pipeline, workers: Workers
) -> Iterator[Measured | Finding]:
    """Data loader workers draw different random numbers, in every epoch anew.

    What it checks: the batches that several data loader workers make of the same rows, twice.

    Why it matters: a generator that a dataset or a collator holds is copied into every worker.
    Each worker then masks, crops and augments with the same numbers, and starts again with each
    epoch: the data vary a fraction as much as they should.

    How it is measured: a loader with the Trainer's own dataset, collator, number of workers and
    ``worker_init_fn`` has each worker make a few batches of the same rows.  If all batches are
    equal there is nothing random in them.  If not, two workers must not make the same sequence of
    batches, nor all workers the same sequences in two epochs.  Exact.

    How to fix: draw from torch's global generator, which is seeded for each worker and epoch, or
    seed a generator from ``torch.initial_seed()`` inside the worker.

    Known false alarms: none known; without workers, or with nothing random, it passes.

    References: pytorch/pytorch#5059; ``torch.utils.data.DataLoader``, "Randomness in
    multi-process data loading".
    """
    cause = "most likely a generator in the dataset or the collator, copied into each worker"
    fix = "draw from torch's global generator, or seed one from torch.initial_seed() in the worker"
    first, second = workers.made or ([], [])
    batches = {batch for epoch in workers.made for worker in epoch for batch in worker}
    distinct = len({tuple(worker) for worker in first})
    repeating = sum(one == other for one, other in zip(first, second, strict=True))
    if workers.random and distinct < workers.count:
        yield Finding(
            f"{workers.count} workers make the same random batches of the same rows"
            if distinct == 1
            else f"{workers.count} workers make {distinct} different sequences of random batches "
            "from the same rows",
            observed=distinct,
            expected=workers.count,
            factor=distinct / workers.count,
            where=f"dataloader_num_workers = {workers.count}",
            cause=cause,
            fix=fix,
        )
    if workers.random and repeating == workers.count:
        yield Finding(
            "the second epoch repeats the random numbers of the first",
            observed="the same batches",
            expected="other batches",
            where=f"dataloader_num_workers = {workers.count}",
            cause=cause,
            fix=fix,
        )
    yield Measured(
        f"{workers.count} workers make {len(batches)} different batches of the same rows, in "
        f"{distinct} different sequences; {repeating} workers repeat theirs in the second epoch",
        {"sequences": distinct, "repeating": repeating},
        # Workers that make one and the same batch have nothing random in them.
        {"sequences": workers.count, "repeating": 0}
        if workers.random
        else {"sequences": distinct, "repeating": repeating},
    )
