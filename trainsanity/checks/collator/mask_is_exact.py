"""TS301 collator.mask_is_exact."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.fields import IDS, MASK
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.measurements.model.claims import only_decodes
from trainsanity.objectives.base import CAUSAL_LM
from trainsanity.pipeline import unwrapped
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS301", "collator.mask_is_exact", needs=("data_collator",), rules_out="attention mask")
def mask_is_exact(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The attention mask is 1 on tokens and 0 on padding.

    What it checks: ``attention_mask`` against the places where the source rows lie in
    ``input_ids``, in the first optimizer step's batches and in small ragged ones.

    Why it matters: a mask of ones on padding lets texts attend to it (with padding on the left
    also real tokens change), a zero on a token hides it; the loss shows neither.

    How it is measured: exact.  The place of a row is found by its ids, not by the mask.  Beside
    the training batch, Hypothesis cuts pieces from its rows (ragged, of one length, alone, with a
    longest that is a multiple already), tries both padding sides and several multiples where the
    collator has such settings, and shrinks a failure to its smallest.

    How to fix: let ``tokenizer.pad`` make the mask (``DataCollatorWithPadding`` does), after the
    rows were tokenized without padding.

    The batch of a decoder, whatever its head is, may have no mask where its rows are padded on the
    right: no token sees what stands behind it.

    Known false alarms: none known.  Collators that pack several texts into a row
    are skipped, and so are masks that say of each token which ones it sees.

    References: huggingface/transformers#24265; jy-yuan/KIVI#46 for a mask lost with left padding.
    """
    if batch.by_loss:
        yield from _of_the_loss(batch)
        return
    collating = Collating(pipeline, batch)
    if any(micro.inputs[MASK].ndim > 2 for micro in batch if MASK in micro.inputs):
        raise Skip("the attention_mask says of each token which ones it sees, and not what is "
                   "padding")  # fmt: skip

    def wrong(rows: Rows, made: Made) -> str | None:
        return _wrong_mask(collating, rows, made)

    objection = collating.objection(wrong)
    if objection:
        yield Finding(
            f"the attention mask is not that of the rows: {objection}",
            cause="the collator may make the mask by itself instead of from the rows' lengths",
            fix="let tokenizer.pad make it: DataCollatorWithPadding(tokenizer)",
            repairs=(repair("attention_mask made of the rows' lengths", "mask_rebuilt"),),
        )
    tokens = sum(batch.lengths)
    positions = sum(micro.inputs[IDS].numel() for micro in batch)
    ones = sum(
        int(m.inputs[MASK].sum())
        if MASK in m.inputs
        else m.inputs[IDS].numel()  # a model attends to all without one
        for m in batch
    )
    yield Measured(
        f"{ones} of {positions} positions are attended, the rows have {tokens} tokens"
        f"{collating.tried()}",
        ones,
        tokens,
    )


def _of_the_loss(batch: Batch) -> Iterator[Measured | Finding]:
    """Hold the mask that a loss makes beside its tokens against each row as it is made alone."""
    wrong = tokens = ones = positions = 0
    first = ""
    for number, micro in enumerate(batch):
        masks = micro.inputs[MASK].long().tolist()
        for k, (where, mask) in enumerate(zip(micro.placements, masks, strict=True)):
            if where is None:
                raise Skip("a row has other tokens beside the others than alone: its place is not "
                           "known")  # fmt: skip
            tokens, ones, positions = tokens + where.length, ones + sum(mask), positions + len(mask)
            if mask != where.mask():
                wrong += 1
                first = first or (
                    f"row {k} of micro-batch {number} has {where.length} tokens in {where.width} "
                    f"positions and a mask with {sum(mask)} ones"
                )
    if wrong:
        yield Finding(
            f"the attention mask that the loss makes is not that of its rows, {wrong} of them: "
            f"{first}",
            observed=ones,
            expected=tokens,
            where="the tokens that the model is given",
            cause="the mask is made by itself instead of from the rows' lengths",
            fix="leave both to the model's preprocess(), which has tokenizer.pad make the mask",
        )
    yield Measured(
        f"{ones} of {positions} positions are attended, the rows have {tokens} tokens", ones, tokens
    )


def _wrong_mask(collating: Collating, rows: Rows, made: Made) -> str | None:
    if "attention_mask" not in made:
        return _wrong_without(collating, rows, made)
    masks = made["attention_mask"].tolist()
    for i, where in enumerate(collating.placed(rows, made)):
        if where is None:
            continue  # collator.rows_recovered judges that
        expected = where.mask()
        own = rows[i].get("attention_mask")
        if own is not None:
            expected[where.start : where.start + where.length] = list(own)
        if masks[i] != expected:
            shown = f": {masks[i]}" if len(expected) <= 12 else ""
            return (
                f"row {i} has {where.length} token{'s' * (where.length != 1)} in {where.width} "
                f"positions "
                f"and a mask with {sum(masks[i])} ones{shown}"
            )
    return None


def _wrong_without(collating: Collating, rows: Rows, made: Made) -> str | None:
    """Object to a batch without a mask if there is padding that the model would read as text."""
    parameters = inspect.signature(unwrapped(collating.pipeline.model).forward).parameters
    named = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "attention_mask" not in parameters and not named:
        return None
    pipeline = collating.pipeline
    causal = objective_of(pipeline).name == CAUSAL_LM or only_decodes(pipeline.config)
    for i, where in enumerate(collating.placed(rows, made)):
        # Rows of one length fill a batch without any padding, and a mask of ones is the default.
        own = list(rows[i].get("attention_mask") or ())
        if causal and where is not None and not where.start and own == sorted(own, reverse=True):
            continue  # no token of a language model sees what stands behind it
        if where is not None and (where.length < where.width or 0 in own):
            return f"the batch has none, and row {i} has padding"
    return None
