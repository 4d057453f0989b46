"""TS450 model.padding_is_hidden."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.hidden_padding import HiddenPadding
from trainsanity.types import Cost, Finding, Measured, Severity


@check("TS450", "model.padding_is_hidden", cost=Cost.STEP, rules_out="a mask that hides nothing")
def padding_is_hidden(hidden_padding: HiddenPadding) -> Iterator[Measured | Finding]:
    """A mask hides padding, whatever the model calls it.

    What it checks: the outputs for the padded rows of the model's first call against their outputs
    with less padding, in models whose arguments have names of their own, and where rows that end in
    the tokenizer's padding come without a mask to a model that takes one.

    Why it matters: ``scaled_dot_product_attention`` adds a mask of fractions to the scores and
    hides by a mask of booleans alone; ``key_padding_mask`` has True where others have False. No
    shape is wrong either way, and a row means something else beside longer ones.

    How it is measured: a mask is an argument of two values whose pieces reach to one end of each
    row, and behind which all other arguments hold one value. Rows that are padded are cut to the
    longest of them and asked again, in eval mode and in float32 where that can be had. Allowed is
    what a unit in the last place of the weights makes of the outputs, and the rounding of a
    thousand sums. A warning where the model has recurrent, convolutional or normalising layers that
    no mask reaches.

    How to fix: give the mask as the function takes it::

        # bad
        scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].float())
        # good
        scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())

    And keep the mask beside the ids::

        # bad
        rows.select_columns(["input_ids", "labels"])
        # good
        rows.select_columns(["input_ids", "attention_mask", "labels"])

    Known false alarms: models that are to read a row's width from its padding.

    References: timeseriesAI/tsai#171, huggingface/transformers#17444.
    """
    seen = hidden_padding
    if not within(seen.difference, seen.allowed):
        yield Finding(
            f"row {seen.row} of the first call has another output with {seen.narrower} columns "
            f"than with {seen.width}, padding aside: greatest difference {seen.difference:.3g}, up "
            f"to {seen.allowed:.2g} allowed",
            observed=seen.difference,
            expected=f"at most {seen.allowed:.3g}",
            where=f"{seen.mask or 'no mask'}, row {seen.row} of the first micro-batch",
            cause="the rows end in the tokenizer's padding and the model is given no "
            "attention_mask: it attends to all that it is given"
            if not seen.mask
            else f"{seen.mixes} runs over padding, and no mask reaches it"
            if seen.mixes
            else f"{seen.mask} hides nothing: as floats of 0 and 1 it is added to the scores of "
            "attention, or it is not used where positions are mixed or averaged"
            if seen.floats
            else f"{seen.mask} does not hide padding: as floats it is added to the scores of "
            "attention, True and False are exchanged, or it is not used where positions are mixed "
            "or averaged",
            fix="keep the attention_mask among the columns (select_columns, set_format), "
            "and return it from the collator"
            if not seen.mask
            else "bring rows of one length together, or pack them (pack_padded_sequence)"
            if seen.mixes
            else "attn_mask=mask.bool() with True where tokens are seen, or 0 and -inf as floats; "
            "key_padding_mask has True where padding is",
            severity=Severity.WARNING if seen.mixes and seen.mask else Severity.FAILURE,
        )
    yield Measured(
        f"{seen.rows} padded rows with {seen.width} and with {seen.narrower} columns: greatest "
        f"difference {seen.difference:.2g}, up to {seen.allowed:.2g} allowed{seen.precision}",
        seen.difference,
        seen.allowed,
    )
