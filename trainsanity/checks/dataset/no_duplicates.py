"""TS207 dataset.no_duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_repeats import Repeats
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    pass


@check(
    "TS207",
    "dataset.no_duplicates",
    needs=("train_dataset",),
    rules_out="duplicates",
)
def no_duplicates(scan: Scan, repeats: Repeats) -> Iterator[Measured | Finding]:
    """No training row is there twice.

    What it checks: rows of the training data with the same ids, padding aside, and the same label.

    Why it matters: a row that is there k times weighs k times in the loss, and a model learns it by
    heart k times as fast; a file that was read twice doubles the epochs without saying so.

    How it is measured: exact up to equal 128-bit hashes.  Rows that agree in length and in a few
    ids at fixed distances are hashed whole; what agrees then is the same row.

    How to fix: ``pandas.DataFrame.drop_duplicates`` on the texts, or look for a file that was read
    twice.

    Known false alarms: rows repeated on purpose, to weigh them.  Name the check in
    expected_failures with that reason.

    References: read: datasets.concatenate_datasets, which keeps what is in both.
    """
    train = scan.train
    if repeats.first_copy is not None:
        later, earlier = repeats.first_copy
        yield Finding(
            f"{repeats.copies:,} of {train.counted} in {train.name} repeat an earlier one: "
            f"row {train.rows.number(later)} is row {train.rows.number(earlier)} again",
            observed=repeats.copies,
            expected=0,
            where=train.row(later),
            cause="a source that was read twice, or texts that recur",
            fix="drop duplicates before tokenizing",
        )
    yield Measured(f"none of {train.counted} repeats an earlier one", 0, 0)
