"""TS917 loop.workers_split_the_stream."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.order import WorkerShares
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS917",
    "loop.workers_split_the_stream",
    cost=Cost.STATIC,
    needs=("trainer", "train_dataset"),
    rules_out="workers that repeat rows",
)
def workers_split_the_stream(worker_shares: WorkerShares) -> Iterator[Measured | Finding]:
    """The data loader's workers read different rows of a stream.

    What it checks: the first rows that two workers read of a stream.

    Why it matters: each worker has a copy of the stream.  One that does not ask which worker it
    is in is read in full by all of them: every row comes as often in an epoch as there are workers,
    in batches right after one another.

    How it is measured: the stream is read twice in this process, with ``get_worker_info()``
    answering as in the first and in the second worker; up to 512 rows each are compared by what
    they hold.  Half of the rows read by both is a failure (data may have duplicates of its own).

    How to fix: take a share by the worker's number::

        # bad
        def __iter__(self):
            yield from self.rows
        # good
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            start, step = (info.id, info.num_workers) if info else (0, 1)
            yield from itertools.islice(self.rows, start, None, step)

    Known false alarms: a stream in which most rows are alike.

    References: huggingface/datasets#3423; ``torch.utils.data.IterableDataset``.
    """
    seen = worker_shares
    if seen.rows and 2 * seen.twice > seen.rows:
        yield Finding(
            f"{seen.twice} of the first {seen.rows} rows of one worker are read by another worker, "
            f"too: each row comes up to {seen.workers} times in an epoch",
            observed=seen.twice,
            expected=0,
            factor=float(seen.workers),
            where="dataloader_num_workers",
            cause="each worker reads the whole stream: its __iter__ does not ask get_worker_info()",
            fix="share the rows by get_worker_info() in __iter__, or set dataloader_num_workers=0",
        )
    yield Measured(
        f"{seen.twice} of {seen.rows} rows of one worker are those of another; the loader has "
        f"{seen.workers} workers",
        seen.twice,
        0,
    )
