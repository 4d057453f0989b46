"""TS207 dataset.no_duplicates."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks._splits import rows_finding
from trainsanity.engine.registry import check
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_repeats import Repeats
from trainsanity.types import Finding, Measured, Severity


@check(
    "TS207",
    "dataset.no_duplicates",
    needs=("train_dataset",),
    rules_out="duplicates",
)
def no_duplicates(scan: Scan, repeats: Repeats) -> Iterator[Measured | Finding]:
    """No training row occurs twice.

    What it checks: rows of the training data with the same ids, padding aside, and the same label.
    Where rows hold no token ids, with the same pixels, audio, numbers or texts.

    Why it matters: a row that occurs k times weighs k times in the loss and is memorised k times as
    fast; a file that was read twice silently doubles the epochs.

    How it is measured: exact up to equal 128-bit hashes.  Rows that agree in length and in a few
    ids at fixed distances are hashed whole; rows with equal hashes are the same.  A failure where
    most copies follow one another as the rows do that they equal, which only a source that was
    read twice does, or where every row is there twice (but for tables of few categories, in which
    equal rows have different labels); a warning otherwise: texts recur, and rare
    classes are repeated on purpose.

    How to fix: ``pandas.DataFrame.drop_duplicates`` on the texts, or look for a file that was read
    twice.

    Known false alarms: a whole source repeated on purpose, to weigh it.  Name the check in
    expected_failures with that reason.

    References: read: datasets.concatenate_datasets, which keeps what is in both.
    """
    train = scan.train
    if repeats.first_copy is not None:
        later, earlier = repeats.first_copy
        # Most copies stand in the order of their originals, or every row has a copy; of a table of
        # few categories most rows have one by nature, and labels that differ show that it is one.
        by_nature = train.content.role == NUMBERS and repeats.contradictions > 0
        every = 2 * repeats.copies >= len(train.rows) and not by_nature
        twice = 2 * repeats.in_order > repeats.copies or every
        yield rows_finding(
            train,
            repeats.copies,
            later,
            f"repeat an earlier one: row {train.rows.number(later)} is row "
            f"{train.rows.number(earlier)} again",
            cause="a source was read twice"
            if twice
            else "texts recur, or rows are repeated to weigh them",
            fix="drop duplicates before tokenizing",
            severity=Severity.FAILURE if twice else Severity.WARNING,
        )
    yield Measured(
        f"{repeats.copies:,} of {train.counted} repeat an earlier one", repeats.copies, 0
    )
