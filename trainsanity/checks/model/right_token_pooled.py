"""TS404 model.right_token_pooled."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch, attended
from trainsanity.measurements.model.forward import Forward
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS404",
    "model.right_token_pooled",
    cost=Cost.FORWARD,
    requires=(
        "collator.rows_recovered",
        "collator.padding_value",
        "tokenizer.config_agrees",
        "model.eval_is_repeatable",
    ),
    rules_out="PAD / EOS",
)
def right_token_pooled(forward: Forward, batch: Batch) -> Iterator[Measured | Finding]:
    """Each row's logits are read at its last token.

    What it checks: the position whose head output equals the row's logits, against the row's last
    token in the batch.

    Why it matters: generic heads look for the last id that is not ``config.pad_token_id`` and never
    at the attention mask.  A text that ends with that id is read one token early, another PAD in
    the collator makes the head read padding, and the loss looks normal in both cases.

    How it is measured: exact.  The head's outputs at all positions are recorded during an
    evaluation forward and compared with the logits that the model returned.

    How to fix: ``model.config.pad_token_id = tokenizer.pad_token_id``; keep that id out of the
    texts, at their end above all.

    Known false alarms: models that pool otherwise by design (a first token, a mean) are skipped
    when their head is given one vector per row.

    References: huggingface/transformers#35352, #24265, #46782; huggingface/peft#3620.
    """
    batch.require_tokens()
    wrong, total = [], 0
    for one, micro in zip(forward.passes, batch, strict=True):
        if one.index is None:
            raise Skip("the head is given one vector per row: where it was read is not visible")
        if one.ambiguous:
            raise Skip("several positions have the same logits: which was read is not visible")
        places = zip(one.index, micro.placements, micro.rows, strict=True)
        for column, where, row in places:
            if column is None:
                raise Skip("no position of the head's output has the direction of the logits")
            last = None if where is None else where.start + attended(row)[0]
            if last is not None and column != last:
                wrong.append((total, column, last))
            total += 1
    if wrong:
        first, column, last = wrong[0]
        yield Finding(
            f"{len(wrong)} of {total} rows are read at another token than their last: "
            f"row {first} at position {column}, its last token is at {last}",
            observed=column,
            expected=last,
            where=f"row {first} of the first step",
            cause="the text ends with config.pad_token_id, or the place is counted from ids"
            if column < last
            else "config.pad_token_id is not what the collator pads with, or the place is counted "
            "from ids",
            fix="model.config.pad_token_id = tokenizer.pad_token_id, and keep that id out of texts",
        )
    right = total - len(wrong)
    yield Measured(f"{right} of {total} rows are read at their last token", right, total)
