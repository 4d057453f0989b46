"""TS910 loop.ranks_share_the_data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from trainsanity.checks.loop._processes import TOGETHER
from trainsanity.engine.registry import check
from trainsanity.measurements.runs.shares import Shares
from trainsanity.types import Finding, Measured

HALF = 0.5
"""Share of a process's rows that another one reads, too, above which a stream is not divided.
It is near 0 for a divided stream and 1 for an undivided one; a few repeated texts change little."""


@check(
    "TS910",
    "loop.ranks_share_the_data",
    needs=("trainer", "train_dataset", "other_processes"),
    rules_out=TOGETHER,
)
def ranks_share_the_data(shares: Shares) -> Iterator[Measured | Finding]:
    """The processes share out the data, each row to one of them, anew in each epoch.

    What it checks: which rows each process's data loader reads in the first epoch, and whether a
    shuffled second one begins in the same order.

    Why it matters: processes that all read the same rows cost many machines and train like one, and
    an epoch is as many times too long.  If rows are divided twice, by hand and by the loader, some
    are never trained on.  A sampler that is not told the epoch shuffles by the same seed each time,
    so that every batch has the same rows in all epochs.

    How it is measured: every process iterates over its loader, with a dataset that returns indices
    in place of rows, so that no row is read and nothing is collated.  Each index must be read by
    one process.  If the last round is filled up with rows from the beginning, as by accelerate's
    ``even_batches``, that many may come twice; with ``dataloader_drop_last`` the rows of one round
    may be missing.  If the processes hold different datasets, as a few rows of each show, every
    process must read all of its own.  The first batches of a stream are read, and no more than half
    of a process's rows may be read by process 0, too.  Then the loader is told of the second epoch,
    as the Trainer does where it has ``set_epoch``, and eight batches are read: if torch's shuffling
    sampler gives them as in the first epoch, and chance would less than once in a million, that is
    a failure.

    Processes that compute a forward together, under tensor, context or sequence parallelism as
    ``accelerator.parallelism_config`` has it, count as one, and all of them have to read the same.

    How to fix: let ``get_train_dataloader`` end in ``self.accelerator.prepare(...)``; divide by
    hand (``split_dataset_by_node``, ``shard``) or by the loader, and not by both.  A loader of
    your own with a ``DistributedSampler`` has to pass ``set_epoch`` on to it.

    Known false alarms: a stream in which texts are repeated on purpose.

    References: huggingface/datasets#5360, #3423; ``accelerate.data_loader.BatchSamplerShard``;
    ``torch.utils.data.DistributedSampler.set_epoch``.
    """
    if shares.stream:
        message, observed, expected, findings = _stream(shares)
    elif shares.same:
        message, observed, expected, findings = _one_dataset(shares)
    else:
        message, observed, expected, findings = _datasets(shares)
    yield from findings
    if shares.apart:
        first = shares.apart[0] - shares.apart[0] % shares.group
        yield Finding(
            f"process {shares.apart[0]} reads other rows than process {first}, with which it "
            "computes one forward",
            observed=len(shares.apart),
            expected=0,
            where=f"process {shares.apart[0]}",
            cause="under tensor, context or sequence parallelism processes share out a row's "
            "computation, and the loader shares out the rows among them as well",
            fix="leave the loader to the Trainer, or shard it by the data dimensions of "
            "accelerator.torch_device_mesh alone",
        )
    if shares.repeats and all(shares.repeats):
        yield Finding(
            f"a second epoch begins with the {shares.repeats[0]} rows of the first in the same "
            "order, though the sampler shuffles: it is not told the epoch",
            observed=shares.repeats[0],
            expected=0,
            where="get_train_dataloader",
            cause="DistributedSampler shuffles by seed + epoch, and the loader has no set_epoch "
            "that the Trainer could call",
            fix="return self.accelerator.prepare(DataLoader(...)), or give the loader a set_epoch "
            "that calls the sampler's",
        )
    yield Measured(message, observed, expected)


Verdict = tuple[str, Any, Any, list[Finding]]
"""The neutral message, the observed and the expected value, and what is wrong."""


def _one_dataset(shares: Shares) -> Verdict:
    """Judge processes that all hold the same dataset."""
    findings, count, rows = [], len(shares.read), shares.rows[0]
    readers = Counter(index for indices in shares.read for index in set(indices))
    twice = [index for index, times in readers.items() if times > 1]
    missing = rows - len(readers)
    filled = -rows % shares.batch
    dropped = rows % shares.batch if shares.drops_last else 0
    if len(twice) > filled:
        read = sum(map(len, shares.read))
        findings.append(
            Finding(
                f"{len(twice):,} of {rows:,} rows are read by more than one of {count} processes",
                observed=len(twice),
                expected=filled,
                where=f"row {min(twice)}",
                factor=read / rows,
                cause="the data loader does not divide the rows between the processes",
                fix="return self.accelerator.prepare(DataLoader(...)) from get_train_dataloader, "
                "or leave it to the Trainer",
            )
        )
    if missing > dropped:
        findings.append(
            Finding(
                f"{missing:,} of {rows:,} rows are read by none of {count} processes",
                observed=missing,
                expected=dropped,
                where=f"row {next(index for index in range(rows) if index not in readers)}",
                factor=len(readers) / rows,
                cause="the rows are divided twice, or the sampler leaves some out",
                fix="divide the rows by hand or by the loader, and not by both",
            )
        )
    return (
        f"{count} processes read {' + '.join(f'{len(set(r)):,}' for r in shares.read)} of {rows:,} "
        f"rows; read by several: {len(twice)}, by no process: {missing}",
        {"several": len(twice), "none": missing},
        {"several": filled, "none": dropped},
        findings,
    )


def _datasets(shares: Shares) -> Verdict:
    """Judge processes that hold different datasets."""
    findings, count = [], len(shares.read)
    read = [len(set(indices)) for indices in shares.read]
    dropped = [rows % shares.batch if shares.drops_last else 0 for rows in shares.rows]
    missing = [rows - own for rows, own in zip(shares.rows, read, strict=True)]
    for number, rows in enumerate(shares.rows):
        if missing[number] > dropped[number]:
            findings.append(
                Finding(
                    f"process {number} has a dataset of its own and reads {read[number]:,} of its "
                    f"{rows:,} rows: no process reads the others",
                    observed=missing[number],
                    expected=dropped[number],
                    where=f"process {number}",
                    factor=read[number] / rows,
                    cause="most likely the rows are divided by hand and again by the loader",
                    fix="give every process the whole dataset, or a loader that is not prepared",
                )
            )
            break
    return (
        f"{count} processes hold datasets of their own, of {' and '.join(map(str, shares.rows))} "
        f"rows, and read {' and '.join(map(str, read))}",
        missing,
        dropped,
        findings,
    )


def _stream(shares: Shares) -> Verdict:
    """Judge processes that read streams."""
    findings = []
    first = set(shares.read[0])
    worst, which = 0.0, 1
    for number, rows in enumerate(shares.read[1:], start=1):
        part = len(first & set(rows)) / max(1, len(set(rows)))
        if part > worst:
            worst, which = part, number
    if worst > HALF:
        findings.append(
            Finding(
                f"{worst:.0%} of the first rows that process {which} reads are read by process 0, "
                "too: the stream is not divided",
                observed=worst,
                expected=0.0,
                where=f"process {which}",
                cause="most likely every process reads the stream from its beginning",
                fix="datasets.distributed.split_dataset_by_node(stream, rank, world_size), or a "
                "loader that accelerate prepares",
            )
        )
    return (
        f"the first {len(first)} rows of a stream: processes share at most {worst:.0%} of theirs",
        worst,
        0.0,
        findings,
    )
