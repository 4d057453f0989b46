"""TS311 collator.padding_value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.fields import IDS
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.drawn import listed
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS311",
    "collator.padding_value",
    needs=("data_collator",),
    requires=("tokenizer.config_agrees", "collator.rows_recovered"),
    rules_out="padding value",
)
def padding_value(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Rows are padded with PAD.

    What it checks: the ids around each row in ``input_ids`` against the tokenizer's PAD, which is
    the config's too (``tokenizer.config_agrees``); without a tokenizer against the config's.

    Why it matters: heads that pool the last token that is not PAD read a padding position if
    rows are padded with anything else, and code that looks for PAD takes padding for text.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side and to several multiples, shrunk to the smallest
    failure.

    How to fix: ``tokenizer.pad``, or ``pad_sequence(..., padding_value=tokenizer.pad_token_id)``.

    Known false alarms: none known.  Skipped where neither tokenizer nor config has a PAD, and for
    collators that pack.

    References: huggingface/trl#422; ``torch.nn.utils.rnn.pad_sequence`` pads with 0 by default.
    """
    pad = getattr(pipeline.tokenizer, "pad_token_id", None)
    if pad is None:
        pad = getattr(pipeline.config, "pad_token_id", None)
    if pad is None:
        raise Skip("neither the tokenizer nor the model's config has a PAD")
    if batch.by_loss:
        yield from _of_the_loss(batch, int(pad))
        return
    collating = Collating(pipeline, batch)

    def wrong(rows: Rows, made: Made) -> str | None:
        for i, where in enumerate(collating.placed(rows, made)):
            around = where.outside(made["input_ids"][i].tolist()) if where else []
            if set(around) - {pad}:
                return f"row {i} is padded with {sorted(set(around))}, PAD is {pad}"
        return None

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the collator pads with another id than PAD: {objection}",
            expected=pad,
            cause="the collator has a fill value of its own, or the PAD of another tokenizer",
            fix="pad with tokenizer.pad, or padding_value=tokenizer.pad_token_id",
            repairs=(
                repair(f"input_ids[attention_mask == 0] = {pad}", "padding_filled", value=pad),
            ),
        )
    used = {
        token
        for micro in batch
        for where, ids in zip(
            collating.placed([*map(listed, micro.rows)], micro.inputs),
            micro.inputs["input_ids"].tolist(),
            strict=False,
        )
        if where is not None
        for token in where.outside(ids)
    }
    yield Measured(
        f"the first step is padded with {sorted(used)}, PAD is {pad}{collating.tried()}",
        sorted(used),
        pad,
    )


def _of_the_loss(batch: Batch, pad: int) -> Iterator[Measured | Finding]:
    """Judge what stands around each row in the tokens that a loss makes of texts."""
    used: set[int] = set()
    for micro in batch:
        for where, ids in zip(micro.placements, micro.inputs[IDS].tolist(), strict=True):
            used |= set(where.outside(ids)) if where is not None else set()
    if not used:
        raise Skip("no row of the first step is padded")
    if used - {pad}:
        yield Finding(
            f"the loss has rows padded with {sorted(used)}, PAD is {pad}",
            observed=sorted(used),
            expected=[pad],
            where="the tokens that the model is given",
            cause="a fill value of its own, or the PAD of another tokenizer",
            fix="leave padding to the model's preprocess(), and give model and tokenizer one PAD",
        )
    yield Measured(f"the first step is padded with {sorted(used)}, PAD is {pad}", sorted(used), pad)
