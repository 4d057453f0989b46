"""TS302 collator.rows_recovered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.drawn import listed
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS302",
    "collator.rows_recovered",
    needs=("data_collator",),
    rules_out="truncation in the batch",
)
def rows_recovered(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The collator returns every row whole and in order.

    What it checks: that ``input_ids`` holds each source row whole at the left or right end, and
    that rows keep their order.

    Why it matters: a collator that truncates, sorts or shifts trains on other data than was
    prepared.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side, shrunk to the smallest failure.  Tokens that a
    masked language model's collator masked are read from its labels.

    How to fix: keep order and length in the collator; truncate when tokenizing.

    Known false alarms: a collator that changes ids on purpose, other than by masking.  Collators
    that pack are skipped.

    References: modelscope/ms-swift#6961 for tails that were cut.
    """
    collating = Collating(pipeline, batch)

    def wrong(rows: Rows, made: Made) -> str | None:
        return _not_recovered(collating, rows, made)

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the collator does not return its rows: {objection}",
            cause="the collator truncates, reorders or changes ids",
            fix="keep rows whole and in order; truncate when tokenizing",
        )
    rows = len(batch.lengths)
    whole = sum(
        where is not None
        for micro in batch
        for where in collating.placed([*map(listed, micro.rows)], micro.inputs)
    )
    yield Measured(
        f"{whole} of {rows} rows of the first step come out whole{collating.tried()}", whole, rows
    )


def _not_recovered(collating: Collating, rows: Rows, made: Made) -> str | None:
    padded = made["input_ids"].tolist()
    if len(padded) != len(rows):
        return f"{len(rows)} rows went in and {len(padded)} came out"
    for i, where in enumerate(collating.placed(rows, made)):
        if where is None:
            row = rows[i]["input_ids"]
            return (
                f"row {i} {_shown(row)} of {len(row)} tokens came out as "
                f"{_shown(padded[i])} in {len(padded[i])} positions"
            )
    return None


def _shown(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"[{', '.join(map(str, ids[:12]))}, ...]"
