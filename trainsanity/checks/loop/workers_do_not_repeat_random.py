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
    """Workers that draw random numbers draw different ones, and others in the next epoch.

    What it checks: the batches that several data loader workers make of the same rows, twice.

    Why it matters: a generator that a dataset or a collator holds is copied into every worker.
    Each then masks, crops and augments by the same numbers, and starts again with each epoch: the
    data are a fraction as varied as they look.

    How it is measured: a loader with the Trainer's own dataset, collator, number of workers and
    ``worker_init_fn`` asks each worker a few times for the same rows.  If all batches are equal
    there is nothing random in them.  If not, two workers must not make the same sequence of
    batches, nor one worker the same in two epochs.  Exact.

    How to fix: draw from torch's global generator, which is seeded for each worker and epoch, or
    seed a generator from ``torch.initial_seed()`` inside the worker.

    Known false alarms: none known; without workers, or with nothing random, it says so and passes.

    References: pytorch/pytorch#5059; ``torch.utils.data.DataLoader``, "Randomness in
    multi-process data loading".
    """
    if not workers.count:
        yield Measured("no workers: dataloader_num_workers is 0", 0, 0)
        return
    if not workers.random:
        yield Measured(f"{workers.count} workers, and nothing random in what they make", 0, 0)
        return
    cause = "a random generator is held by the dataset or the collator, and copied into each worker"
    fix = "draw from torch's global generator, or seed one from torch.initial_seed() in the worker"
    sequences = [tuple(worker) for worker in workers.made[0]]
    distinct = len(set(sequences))
    if distinct < workers.count:
        yield Finding(
            f"{workers.count} workers make {distinct} different sequences of random batches from "
            "the same rows",
            observed=distinct,
            expected=workers.count,
            factor=distinct / workers.count,
            where=f"dataloader_num_workers = {workers.count}",
            cause=cause,
            fix=fix,
        )
    if workers.made[0] == workers.made[1]:
        yield Finding(
            "the second epoch repeats the random numbers of the first",
            observed="the same batches",
            expected="other batches",
            where=f"dataloader_num_workers = {workers.count}",
            cause=cause,
            fix=fix,
        )
    yield Measured(
        f"{workers.count} workers make as many sequences of random batches, others in each epoch",
        distinct,
        workers.count,
    )
