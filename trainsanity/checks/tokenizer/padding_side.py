"""TS110 tokenizer.padding_side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.drawn import listed
from trainsanity.repairs import setting
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS110",
    "tokenizer.padding_side",
    needs=("tokenizer", "data_collator"),
    rules_out="padding side",
)
def padding_side(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Batches are padded on the side that the tokenizer names.

    What it checks: the side of the padding in the first optimizer step's batches, stored padding
    included, against ``tokenizer.padding_side``.

    Why it matters: generation during evaluation, and whoever serves the model, pad where the
    tokenizer says.  A model that reads its first token, or counts positions from the left, then
    sees something other than it was trained on.  model.right_token_pooled judges which token the
    model reads, model.batch_equals_single whether padding moves it.

    How it is measured: exact, by where the rows lie in the batch.

    How to fix: set ``tokenizer.padding_side`` before the collator is built, and let
    ``tokenizer.pad`` do the padding.

    Known false alarms: none known.  A batch without padding has no side, and passes.

    References: jy-yuan/KIVI#46; huggingface/transformers#24265.
    """
    batch.require_placed()
    side = pipeline.tokenizer.padding_side
    sides = {"left": 0, "right": 0}
    for micro in batch:
        for row, where in zip(micro.rows, micro.placements, strict=True):
            if where is not None:
                mask = listed(row).get("attention_mask") or [1] * where.length
                before = where.start + (mask.index(1) if 1 in mask else 0)
                after = where.width - where.start - where.length
                after += mask[::-1].index(1) if 1 in mask else 0
                sides["left"] += before > 0
                sides["right"] += after > 0
    other = "right" if side == "left" else "left"
    rows = sum(len(micro.rows) for micro in batch)
    if sides[other]:
        yield Finding(
            f"{sides[other]} of {rows} rows of the first step are padded on the {other}; "
            f"tokenizer.padding_side is {side!r}",
            observed=other,
            expected=side,
            where="the first step's batches",
            cause="the collator pads by itself, or the rows were padded before the side was set",
            fix=f"tokenizer.padding_side = {other!r}, or let tokenizer.pad do the padding",
            repairs=() if sides[side] else (setting("tokenizer", "padding_side", other),),
        )
    yield Measured(
        f"{sides['left']} of {rows} rows of the first step are padded on the left, "
        f"{sides['right']} on the right; tokenizer.padding_side is {side!r}",
        sides,
        side,
    )
