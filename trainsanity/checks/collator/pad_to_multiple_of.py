"""TS303 collator.pad_to_multiple_of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.fields import IDS
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.padding import Padding, round_up
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.measurements.step.last_step import whole_at_the_last_step
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS303",
    "collator.pad_to_multiple_of",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    rules_out="pad_to_multiple_of",
)
def pad_to_multiple_of(
    pipeline: Pipeline, batch: Batch, padding: Padding
) -> Iterator[Measured | Finding]:
    """Batches are padded to the next multiple of ``pad_to_multiple_of``.

    What it checks: each batch's width against ``pad_to_multiple_of`` of the collator.

    Why it matters: a multiple that is not kept loses the tensor cores' fast path that it was set
    for; one that is overshot pays for padding twice.

    How it is measured: exact.  Width = the longest row, with the padding that it is stored with
    (dataset.rows_unpadded), rounded up to the multiple (1 if none is set);
    ``padding="max_length"`` rounds ``max_length`` up instead.  Beside the training batches,
    Hypothesis cuts pieces from their rows, also some whose longest is a multiple already.  Of rows
    that are joined end to end into one the width is the sum of their tokens, rounded up; there the
    first step's batches alone are asked.

    How to fix: pass ``pad_to_multiple_of`` to the collator and leave padding to it.

    Known false alarms: a collator without such a setting is skipped.

    References: ``transformers.DataCollatorWithPadding``.
    """
    collator = pipeline.data_collator
    if not hasattr(collator, "pad_to_multiple_of"):
        raise Skip("the collator has no pad_to_multiple_of")
    if batch.of_tokens and all(_end_to_end(micro) for micro in batch):
        yield from _of_joined(batch, collator.pad_to_multiple_of)
        return
    collating = Collating(pipeline, batch)

    def least(longest: int) -> int:
        fixed = getattr(collator, "max_length", None)
        whole = fixed if getattr(collator, "padding", True) == "max_length" else None
        return int(round_up(whole or longest, collator.pad_to_multiple_of or 1))

    def wrong(rows: Rows, made: Made) -> str | None:
        longest = _longest(rows)
        width, right = made["input_ids"].shape[-1], least(longest)
        if width == right:
            return None
        return f"a batch is {width} wide; its longest row has {longest} tokens, {right} is enough"

    expected = [
        least(max(longest, _longest(micro.rows)))
        for micro, longest in zip(batch, padding.longest, strict=True)
    ]
    objection = collating.objection(wrong)
    if objection and whole_at_the_last_step(collating):
        raise Skip("the collator cuts rows for now: their lengths are not its")
    if objection:
        yield Finding(
            f"pad_to_multiple_of={padding.multiple} is not kept: {objection}",
            observed=padding.widths,
            expected=expected,
            factor=sum(padding.widths) / sum(expected),
            cause="the collator does not keep its own setting",
            fix="leave padding to tokenizer.pad(..., pad_to_multiple_of=...)",
        )
    yield Measured(
        f"pad_to_multiple_of={padding.multiple}: batches are {min(padding.widths)} to "
        f"{max(padding.widths)} wide, computed {min(expected)} to {max(expected)}"
        f"{collating.tried()}",
        padding.widths,
        expected,
    )


def _end_to_end(micro: MicroBatch) -> bool:
    """Return whether several rows are one, with nothing between them."""
    ids = micro.inputs[IDS]
    if len(micro.rows) == 1 or ids.dim() == 1 or len(ids) > 1:
        return False
    tokens = [token for row in micro.rows for token in row[IDS]]
    return bool(ids[0, : len(tokens)].tolist() == tokens)


def _of_joined(batch: Batch, multiple: int | None) -> Iterator[Measured | Finding]:
    """Hold the width of joined rows against the sum of their tokens, rounded up."""
    widths = [micro.width for micro in batch]
    tokens = [sum(len(row[IDS]) for row in micro.rows) for micro in batch]
    expected = [int(round_up(one, multiple or 1)) for one in tokens]
    if widths != expected:
        at = next(
            k for k, pair in enumerate(zip(widths, expected, strict=True)) if len({*pair}) > 1
        )
        yield Finding(
            f"pad_to_multiple_of={multiple} is not kept: the rows of micro-batch {at} are joined "
            f"into one of {widths[at]} positions; they have {tokens[at]} tokens, {expected[at]} is "
            "enough",
            observed=widths,
            expected=expected,
            factor=sum(widths) / sum(expected),
            cause="the collator does not keep its own setting",
            fix="leave padding to the collator's own pad_to_multiple_of",
        )
    yield Measured(
        f"pad_to_multiple_of={multiple}: rows are joined into {min(widths)} to {max(widths)} "
        f"positions, computed {min(expected)} to {max(expected)}",
        widths,
        expected,
    )


def _longest(rows: Rows) -> int:
    return max(len(row["input_ids"]) for row in rows)
