"""TS422 model.padding_is_not_pooled."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.model.companions import Companions
from trainsanity.types import Cost, Finding, Measured, Severity, Skip


@check(
    "TS422",
    "model.padding_is_not_pooled",
    cost=Cost.FORWARD,
    needs=("trainer",),
    requires=("model.rows_are_independent",),
    rules_out="padding",
)
def padding_is_not_pooled(companions: Companions) -> Iterator[Measured | Finding]:
    """A row's output is the same with and without padding behind it, for sounds and features, too.

    What it checks: the output for rows that are padded in the first batch against the output for
    the same row collated alone, where it has no padding.

    Why it matters: a mean over all positions takes the padding in, and the shorter a row, the more
    of it. The model then reads the batch's width from its outputs, and says something else when a
    row comes alone.

    How it is measured: in eval mode, in float32 where that can be had; outputs that are one vector
    a row. Allowed are four times what another batch shape makes of an unpadded row, but no more
    than four units in the last place of the dtype times the square root of a thousand sums, of the
    largest output: noise that a fault makes cannot lift the bound. Where the batch has no mask and
    the model takes one, it is asked once more with a mask over the padding: if that mends it, the
    mask is what is missing. A group or instance normalisation over time is looked at by itself:
    where it is given the same for the row's own positions and makes something else of them, no
    mask could help.

    How to fix: let the feature extractor or tokenizer return the mask
    (return_attention_mask=True) and pass it to the model.

    Known false alarms: models with group normalisation over time (wav2vec2-base) differ with a
    mask and without one: a warning.

    References: huggingface/transformers#24265; read: Wav2Vec2Model.forward on attention_mask.
    """
    if not companions.unpadded:
        raise Skip("no row of the first batch is padded, or the probes ask about its padding")
    cap = 32 * (MARGIN * companions.eps + REDUCTIONS) * companions.size
    allowed = MARGIN * companions.shapes + REDUCTIONS * companions.size
    if math.isfinite(allowed):  # what is infinite explains nothing
        low = (MARGIN * companions.eps + REDUCTIONS) * companions.size
        allowed = max(min(allowed, cap), low)
    # A NaN is the greatest, wherever it stands.
    row, worst = max(companions.unpadded.items(), key=lambda item: (math.isnan(item[1]), item[1]))
    if not within(worst, allowed):
        mended = companions.masked.get(row)
        by_mask = mended is not None and within(mended, allowed)
        layer = companions.normed.get(row, "")
        stock = bool(layer) or (mended is not None and not by_mask)
        yield Finding(
            f"row {row} of the first batch has another output without its padding: greatest "
            f"difference {worst:.3g}, up to {allowed:.2g} allowed"
            + (f"; with a mask over the padding {mended:.2g}" if mended is not None else ""),
            observed=worst,
            expected=allowed,
            where=f"row {row} of the first micro-batch",
            cause="the batch has no attention mask, and the padding is pooled"
            if by_mask
            else f"{layer} normalises over a row's positions, padding among them, and no mask "
            "reaches it"
            if layer
            else "padding is pooled although the batch has a mask"
            if companions.mask
            else "the model takes padding in, and a mask does not help",
            fix="return_attention_mask=True in the feature extractor or tokenizer, and pass the "
            "mask to the model"
            if by_mask
            else "bring rows of one length together (group_by_length), and evaluate as the model "
            "will be used: alone, or padded like this"
            if layer
            else "use the mask where positions are averaged, or bring rows of one length together",
            severity=Severity.WARNING if stock else Severity.FAILURE,
        )
    yield Measured(
        f"{len(companions.unpadded)} padded rows against themselves alone: greatest difference "
        f"{worst:.2g}, up to {allowed:.2g} allowed{companions.precision}",
        worst,
        allowed,
    )
