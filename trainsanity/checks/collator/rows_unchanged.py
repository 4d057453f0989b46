"""TS310 collator.rows_unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import is_indexable, plain_values
from trainsanity.isolation.snapshot import restored
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating
from trainsanity.measurements.batches.strategies import Case
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS310", "collator.rows_unchanged", needs=("data_collator",), rules_out="rows in memory")
def rows_unchanged(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The collator leaves the dataset's rows unchanged.

    What it checks: the rows before and after they were collated, and whether the dataset returns
    the same objects at each read.

    Why it matters: a list of rows in memory keeps what a collator pads, cuts or pops.  From the
    second epoch on other rows are trained on.

    How it is measured: exact, on pieces of the training batch's rows, shrunk to the smallest
    failure.  A dataset that makes its rows anew at each read (``datasets.Dataset`` does) is not
    harmed: a collator that changes them passes then.

    How to fix: work on copies: ``rows = [dict(row) for row in rows]``, and new lists inside.

    Known false alarms: none known.

    References: huggingface/transformers#27333 and #30603, ThilinaRajapakse/simpletransformers#974.
    """
    collating = Collating(pipeline, batch, packing=True, tokens=False)

    def broken(case: Case) -> str | None:
        rows = copy.deepcopy(case.rows)
        collating.collator(rows)
        return _changed(case.rows, rows)

    objection = collating.search(broken)
    kept = _keeps_rows(pipeline.train_dataset)
    if objection and kept:
        yield Finding(
            f"the collator changes the training data: {objection}",
            cause="it pads, cuts or pops in place, and the dataset hands out the same rows again",
            fix="rows = [dict(row) for row in rows] first, and new lists instead of changed ones",
        )
    reads = "returns the same rows at each read" if kept else "makes its rows anew at each read"
    yield Measured(
        f"pieces of {len(batch.sources)} rows, collated: {int(bool(objection))} changes in place "
        f"found; the dataset {reads}{collating.tried()}",
        int(bool(objection)),
        0 if kept else None,
    )


def _changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str | None:
    if len(before) != len(after):
        return f"{len(after)} of {len(before)} rows are left"
    for i, (row, now) in enumerate(zip(before, after, strict=True)):
        for key in sorted({*row, *now}):
            if key not in now:
                return f"{key} of row {i} is gone"
            if plain_values(row.get(key)) != plain_values(now[key]):
                return f"{key} of row {i} is {now[key]} afterwards"
    return None


def _keeps_rows(dataset: Any) -> bool:
    """Return whether reading a row twice gives the same row, or the same list inside it."""
    if not is_indexable(dataset):
        return False
    with restored(()):  # rows may be drawn when they are read
        one, again = dataset[0], dataset[0]
    if one is again:
        return True
    shared = {id(value) for value in one.values() if isinstance(value, list)}
    return any(id(value) in shared for value in again.values())
