"""TS910 loop.ranks_share_the_data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainsanity.checks.loop._processes import TOGETHER
from trainsanity.engine.registry import check
from trainsanity.measurements.runs.shares import Shares
from trainsanity.types import Finding, Measured

HALF = 0.5
"""Share of a process's rows that another one reads, too, above which a stream is not divided.
Divided it is next to 0, undivided 1, and a text that happens to be there twice moves it little."""


@check(
    "TS910",
    "loop.ranks_share_the_data",
    needs=("trainer", "train_dataset", "other_processes"),
    rules_out=TOGETHER,
)
def ranks_share_the_data(shares: Shares) -> Iterator[Measured | Finding]:
    """Every row goes to one process, and all of them together read the whole dataset.

    What it checks: which rows each process's data loader reads in the first epoch.

    Why it matters: processes that all read the same rows cost as many machines and train as one;
    the epoch counts as many times too long.  Rows that are split twice, once by hand and once by
    the loader, are never trained on.

    How it is measured: every process walks through its loader over rows that know only their
    places, so no row is read and nothing is collated.  Each place must be read by one process.
    Where the last round is filled up with rows from the beginning, as accelerate's
    ``even_batches`` does, so many may come twice; with ``dataloader_drop_last`` the rows of one
    round may be missing.  Where the processes hold different datasets, told by a few rows of
    each, every one must read all of its own.  Of a stream the first batches are read, and no more
    than half of a process's rows may be another one's, too.

    How to fix: let ``get_train_dataloader`` end in ``self.accelerator.prepare(...)``; divide by
    hand (``split_dataset_by_node``, ``shard``) or by the loader, and not by both.

    Known false alarms: a stream in which texts are repeated on purpose.

    References: huggingface/datasets#5360, #3423; ``accelerate.data_loader.BatchSamplerShard``.
    """
    count = len(shares.read)
    if shares.stream:
        yield from _of_stream(shares, count)
    elif shares.same:
        yield from _of_one_dataset(shares, count)
    else:
        yield from _of_parts(shares, count)


def _of_one_dataset(shares: Shares, count: int) -> Iterator[Measured | Finding]:
    rows = shares.rows[0]
    readers = Counter(place for places in shares.read for place in set(places))
    twice = [place for place, times in readers.items() if times > 1]
    missing = rows - len(readers)
    filled = -rows % shares.batch
    dropped = rows % shares.batch if shares.drops_last else 0
    if len(twice) > filled:
        read = sum(map(len, shares.read))
        yield Finding(
            f"{len(twice):,} of {rows:,} rows are read by more than one of {count} processes",
            observed=len(twice),
            expected=filled,
            where=f"row {min(twice)}",
            factor=read / rows,
            cause="the data loader is not divided between the processes: each reads all of it",
            fix="return self.accelerator.prepare(DataLoader(...)) from get_train_dataloader, or "
            "leave it to the Trainer",
        )
    if missing > dropped:
        yield Finding(
            f"{missing:,} of {rows:,} rows are read by none of {count} processes",
            observed=missing,
            expected=dropped,
            where=f"row {next(place for place in range(rows) if place not in readers)}",
            factor=len(readers) / rows,
            cause="the rows are divided twice, or a sampler leaves some out",
            fix="divide the rows by hand or by the loader, and not by both",
        )
    yield Measured(
        f"{count} processes read {' + '.join(f'{len(set(r)):,}' for r in shares.read)} of {rows:,} "
        f"rows, {len(twice)} of them twice and {missing} never",
        {"twice": len(twice), "never": missing},
        {"twice": filled, "never": dropped},
    )


def _of_parts(shares: Shares, count: int) -> Iterator[Measured | Finding]:
    for number, (rows, places) in enumerate(zip(shares.rows, shares.read, strict=True)):
        missing = rows - len(set(places))
        dropped = rows % shares.batch if shares.drops_last else 0
        if missing > dropped:
            yield Finding(
                f"process {number} has a dataset of its own and reads {len(set(places)):,} of its "
                f"{rows:,} rows: the others are read by nobody",
                observed=missing,
                expected=dropped,
                where=f"process {number}",
                factor=len(set(places)) / rows,
                cause="the rows were divided by hand, and the loader divides them again",
                fix="give every process the whole dataset, or a loader that is not prepared",
            )
            break
    yield Measured(
        f"{count} processes hold datasets of their own, {' and '.join(map(str, shares.rows))} "
        "rows, and each reads all of its own",
        0,
        0,
    )


def _of_stream(shares: Shares, count: int) -> Iterator[Measured | Finding]:
    first = set(shares.read[0])
    worst, which = 0.0, 1
    for number, rows in enumerate(shares.read[1:], start=1):
        part = len(first & set(rows)) / max(1, len(set(rows)))
        if part > worst:
            worst, which = part, number
    if worst > HALF:
        yield Finding(
            f"{worst:.0%} of the first rows that process {which} reads are read by process 0, too: "
            "the stream is not divided",
            observed=worst,
            expected=0.0,
            where=f"process {which}",
            cause="every process reads the stream from its beginning",
            fix="datasets.distributed.split_dataset_by_node(stream, rank, world_size), or a loader "
            "that accelerate prepares",
        )
    yield Measured(
        f"the first {len(first)} rows of a stream: processes share at most {worst:.0%} of theirs",
        worst,
        0.0,
    )
