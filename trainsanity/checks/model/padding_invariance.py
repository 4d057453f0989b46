"""TS407 model.padding_invariance."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.checks.model._invariances import _abstain_if_hidden, _not_numbers
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.probes import OTHER, WIDER, Probes, difference, relative
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS407",
    "model.padding_invariance",
    cost=Cost.FORWARD,
    requires=("model.mask_is_obeyed", "model.read_at_the_end"),
    rules_out="pad_to_multiple_of",
)
def padding_invariance(probes: Probes) -> Iterator[Measured | Finding]:
    """More padding, or padding on the other side, changes nothing.

    What it checks: the logits of a few rows padded as the pipeline pads, against 64 more columns of
    padding on the same side; and the state of each of their tokens when they are padded on the
    other side.

    Why it matters: how much padding a row gets depends on its neighbours and on
    ``pad_to_multiple_of``.  A model that counts positions from the first column learns other
    positions in every batch, and what is served with another padding is not what was trained.

    How it is measured: largest absolute difference of logits, largest relative difference of
    states.  Four times the difference between rows alone and among copies of themselves is
    allowed, or torch.testing's relative tolerance for the dtype, for states times the root of the
    number of layers.  The other side is judged where the model takes ``position_ids``: there mask
    and positions are all that padding may change, so the states must agree, with the model's own
    positions or with those that the mask gives.  The pooled logits are not compared there: a first
    token that is pooled is the first on one side only.

    How to fix: count positions from the mask, ``(attention_mask.cumsum(-1) - 1).clamp(min=0)``; or
    pad on the side that the model was made for.

    Known false alarms: recurrent and convolutional layers that run over padding before a text;
    positions that a model offsets by its own pad id and that are given explicitly.

    References: jy-yuan/KIVI#46, huggingface/transformers#29029.
    """
    looks = {"as trained": probes.own, f"{WIDER} columns wider": probes.wider}
    broken = _not_numbers(looks | probes.elsewhere)
    if broken:
        yield broken
        return
    allowed = probes.allowed_logits
    wider = difference(probes.own.logits, probes.wider.logits)
    _abstain_if_hidden(probes)
    if not within(wider, allowed):
        yield Finding(
            f"{WIDER} more columns of padding on the {probes.side} change the logits by "
            f"{wider:.3g}; arithmetic explains {allowed:.2g}",
            observed=wider,
            expected=f"at most {allowed:.3g}",
            where=f"padding on the {probes.side}, as trained",
            cause="positions are counted from the first column, padding included",
            fix="derive position_ids from the attention mask, or pad on the other side",
        )
    other, said = OTHER[probes.side], ""
    # Where more padding matters on its own side, the rows are no measure for the other.
    if within(wider, allowed) and probes.elsewhere and probes.own.states is not None:
        near = probes.allowed_states
        by_way = {
            way: relative(look.states, probes.own.states)
            for way, look in probes.elsewhere.items()
            if look.states is not None
        }
        least = min(by_way.values(), default=math.nan)
        if by_way and not within(least, near):
            yield Finding(
                f"padded on the {other} instead of the {probes.side}, the tokens' states change by "
                f"{least:.3g} of their norm, whatever positions are given; "
                f"arithmetic explains {near:.2g}",
                observed=by_way,
                expected=f"at most {near:.3g}",
                where=f"padding on the {other}, which this run does not use",
                cause="the model drops the attention mask on its way to the attention",
                fix="hand attention_mask on to every layer that mixes tokens",
            )
        said = f"; on the {other} states differ by {least:.2g} (allowed {near:.2g})"
    yield Measured(
        f"{WIDER} more columns on the {probes.side} change logits by {wider:.2g} "
        f"(noise {probes.logits_noise:.2g}, allowed {allowed:.2g}){said}",
        wider,
        allowed,
    )
