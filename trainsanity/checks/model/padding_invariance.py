"""TS407 model.padding_invariance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.model._invariances import (
    abstain_if_hidden,
    mixes_by_design,
    not_numbers,
    padded_alike,
    takes_no_mask,
)
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, within
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.probes import OTHER, Probes, difference, relative
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS407",
    "model.padding_invariance",
    cost=Cost.FORWARD,
    requires=("model.mask_is_obeyed", "model.read_at_the_end"),
    rules_out="pad_to_multiple_of",
)
def padding_invariance(
    pipeline: Pipeline, batch: Batch, probes: Probes
) -> Iterator[Measured | Finding]:
    """More padding, or padding on the other side, does not change outputs.

    What it checks: the logits of a few rows padded as the pipeline pads, against 64 more columns of
    padding on the same side; and the state of each of their tokens when they are padded on the
    other side.

    Why it matters: how much padding a row gets depends on its neighbours and on
    ``pad_to_multiple_of``.  A model that counts positions from the first column learns other
    positions in every batch, and what is served with another padding is not what was trained.

    How it is measured: greatest absolute difference of logits, greatest relative difference of
    states, in float32 where that can be had.  Allowed is four times what arithmetic makes of them
    (see model.batch_equals_single), for states times the root of the number of layers. The other
    side is judged where the model takes ``position_ids``: there mask and positions are all that
    padding may change, so the states must agree, with the model's own positions or with those that
    the mask gives. The pooled logits are not compared there: a first token that is pooled is the
    first on one side only. A difference on the other side is a warning where a mask of ones was
    seen to change the states, so that the mask is obeyed on the side that is trained: then
    positions alone are counted otherwise, on a side that this run does not use.

    How to fix: count positions from the mask, ``(attention_mask.cumsum(-1) - 1).clamp(min=0)``; or
    pad on the side that the model was made for.

    Where no row is padded and nothing tells what would pad one, the same is asked within the width
    that the rows have, and a difference is a warning: this run does not meet it.

    Where the convolutions of a model of transformers' own reach over the end of a text, as
    model.mask_is_obeyed says, a difference is a warning.

    Known false alarms: recurrent and convolutional layers that run over padding before a text;
    positions that a model counts or offsets by its own pad id (RoBERTa) are a warning.

    References: jy-yuan/KIVI#46, huggingface/transformers#29029.
    """
    if takes_no_mask(pipeline) and padded_alike(pipeline, batch):
        raise Skip("the model takes no mask, and all rows are padded to one width")
    outputs = {"as trained": probes.own, f"{probes.more} columns wider": probes.wider}
    broken = not_numbers(outputs | probes.elsewhere)
    wider = Difference(difference(probes.own.logits, probes.wider.logits), probes.allowed_logits)
    other = _on_the_other_side(probes)
    if broken:
        yield broken
    else:
        abstain_if_hidden(probes)
        if not wider.explained:
            convolution = mixes_by_design(pipeline)
            yield Finding(
                f"{probes.more} more columns of padding on the {probes.side} change the logits: "
                f"{wider}",
                observed=wider.greatest,
                expected=f"at most {wider.allowed:.3g}",
                where=f"padding on the {probes.side}, as trained",
                cause=f"the convolution {convolution} reaches over the end of a text, as this "
                "model was made"
                if convolution
                else "positions are counted by columns of the batch, padding included",
                fix="pad to the same width wherever the model is used"
                if convolution
                else "derive position_ids from the attention mask, or pad on the other side",
                severity=Severity.WARNING
                if convolution or probes.rows.guessed
                else Severity.FAILURE,
            )
        # Where more padding matters on its own side, the rows are no measure for the other.
        elif other and not other.explained:
            yield _other_side(probes, other)
    elsewhere = f"; states when padded on the {OTHER[probes.side]}: {other}" if other else ""
    yield Measured(
        f"logits under {probes.more} more columns on the {probes.side}: {wider} "
        f"(noise {probes.logits_noise:.2g}){elsewhere}{probes.precision}",
        wider.greatest,
        wider.allowed,
    )


def _on_the_other_side(probes: Probes) -> Difference | None:
    """Return what padding on the other side changes, with the positions that change least."""
    own = probes.own.states
    if own is None:
        return None
    moved = [
        relative(output.states, own)
        for output in probes.elsewhere.values()
        if output.states is not None
    ]
    if not moved:
        return None
    least = math.nan if any(map(math.isnan, moved)) else min(moved)
    return Difference(least, probes.allowed_states, "of the norm")


def _other_side(probes: Probes, other: Difference) -> Finding:
    """Return the finding, with a cause by whether the mask was seen to be obeyed."""
    assert probes.own.states is not None
    obeyed = probes.unmasked.states is not None and not within(
        relative(probes.unmasked.states, probes.own.states), other.allowed
    )
    side = OTHER[probes.side]
    return Finding(
        f"padded on the {side} instead of the {probes.side}, the tokens' states change, with "
        f"{' and with '.join(probes.elsewhere)}: {other}",
        observed=other.greatest,
        expected=f"at most {other.allowed:.3g}",
        where=f"padding on the {side}, which this run does not use",
        cause=f"the mask is obeyed on the {probes.side}: the model counts positions otherwise than "
        "by the mask, for one by its own pad id"
        if obeyed
        else f"padding on the {probes.side} needs no mask in this model; on the {side} mask or "
        "positions do not reach every layer",
        fix="give model and tokenizer the same PAD, or pad as the model was made for"
        if obeyed
        else "pass attention_mask and position_ids on to every layer that mixes tokens",
        severity=Severity.WARNING if obeyed or probes.rows.guessed else Severity.FAILURE,
    )
