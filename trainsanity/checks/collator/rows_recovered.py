"""TS302 collator.rows_recovered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import IDS
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.measurements.step.last_step import whole_at_the_last_step
from trainsanity.types import Finding, Measured, Severity, Skip

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

    Rows that are packed are looked for one behind the other, or whole in any of the fewer rows that
    came out; the sides of a pair and the choices of a row each by themselves, cut at the
    collator's own ``max_length``.  Pixels, audio and numbers may be changed, and not exchanged.

    A collator that adds tokens between those of a row and loses none, as fill-in-the-middle does,
    is a warning; so is one that replaces a few tokens, or takes a part of each row, others when it
    is asked again, or that puts rows in another order: what belongs to them is looked for there;
    and so is one that cuts rows which are whole once the run's callbacks were told of its last
    step, as a curriculum by length does.

    Known false alarms: a collator that changes ids on purpose and alike each time.

    References: modelscope/ms-swift#6961 for tails that were cut.
    """
    batch.require_made()
    if not any(IDS in micro.inputs for micro in batch):
        yield from _of_values(batch)
        return
    collating = Collating(pipeline, batch, packing=True)

    def wrong(rows: Rows, made: Made) -> str | None:
        return _not_recovered(collating, rows, made)

    objection = collating.objection(wrong)
    if objection and collating.adds_tokens():
        yield Finding(
            f"the collator lays rows out anew: {objection}",
            cause="it adds tokens between those of the row, and loses none: fill-in-the-middle and "
            "prompts that are drawn do so",
            fix="nothing, if that is meant; otherwise keep rows as they are",
            severity=Severity.WARNING,
        )
    elif objection and collating.replaces_at_random():
        yield Finding(
            f"the collator replaces tokens: {objection}",
            cause="it draws tokens to replace, others each time: word dropout and noise do so",
            fix="nothing, if that is meant; otherwise keep rows as they are",
            severity=Severity.WARNING,
        )
    elif objection and collating.takes_parts():
        yield Finding(
            f"the collator takes a part of each row: {objection}",
            cause="it draws which tokens of a row it takes, others each time: windows that are "
            "drawn anew do so",
            fix="nothing, if that is meant; otherwise keep rows whole",
            severity=Severity.WARNING,
        )
    elif objection and whole_at_the_last_step(collating):
        yield Finding(
            f"the collator cuts rows for now: {objection}",
            cause="a callback tells it how long rows may be, and at the end of training they are "
            "whole: a curriculum by length does so",
            fix="nothing, if that is meant; otherwise keep rows whole",
            severity=Severity.WARNING,
        )
    elif objection:
        yield Finding(
            f"the collator does not return its rows: {objection}",
            cause="the collator truncates, reorders or changes ids",
            fix="keep rows whole and in order; truncate when tokenizing",
        )
    elif moved := sum(micro.turned for micro in batch):
        yield Finding(
            f"rows come out whole, in another order than they went in, in {moved} of "
            f"{len(batch.micro_batches)} micro-batches",
            observed=moved,
            expected=0,
            cause="the collator sorts its rows, as pack_padded_sequence wanted it",
            fix="pack_padded_sequence(..., enforce_sorted=False) without sorting, so that "
            "predictions stand in the dataset's order",
            severity=Severity.WARNING,
        )
    rows = len(batch.lengths)
    whole = sum(
        where is not None
        for micro in batch
        for part in collating.parts(micro)
        for where in collating.placed(*part)
    )
    yield Measured(
        f"{whole} of {rows} rows of the first step come out whole{collating.tried()}", whole, rows
    )


def _of_values(batch: Batch) -> Iterator[Measured | Finding]:
    """Judge batches of pixels, audio or numbers: a collator may change these, but not exchange."""
    whole = exchanged = rows = 0
    for micro in batch:
        names = _values(micro)
        if not names:
            raise Skip("the batch has none of its rows' columns of numbers")
        rows += len(micro.sources)
        for i, row in enumerate(micro.sources):
            places = [
                k
                for k in range(len(micro.sources))
                if all(_same(row[name], micro.inputs[name][k]) for name in names)
            ]
            whole += i in places
            exchanged += bool(places) and i not in places
    if exchanged:
        yield Finding(
            f"{exchanged} of {rows} rows of the first step come out at the place of another row",
            observed=exchanged,
            expected=0,
            cause="the collator orders its rows, and not what belongs to them",
            fix="keep rows in order",
        )
    yield Measured(
        f"{whole} of {rows} rows of the first step come out whole at their places, {exchanged} at "
        "the place of another",
        {"whole": whole, "exchanged": exchanged},
    )


def _values(micro: MicroBatch) -> list[str]:
    """Return the inputs that have a vector, or more, for each row, and the rows a column for."""
    rows = len(micro.sources)
    return [
        name
        for name, value in micro.inputs.items()
        if getattr(value, "ndim", 0) > 1
        and len(value) == rows
        and "mask" not in name
        and all(name in row for row in micro.sources)
    ]


def _same(row: Any, made: Any) -> bool:
    """Return whether a row's values are the batch's, with padding at either end or none."""
    import torch

    own = torch.as_tensor(row).to(made)
    if own.ndim != made.ndim or len(own) > len(made) or own.shape[1:] != made.shape[1:]:
        return False
    return torch.equal(own, made[: len(own)]) or torch.equal(own, made[len(made) - len(own) :])


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
