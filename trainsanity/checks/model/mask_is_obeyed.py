"""TS408 model.mask_is_obeyed."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.model._invariances import _not_numbers
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.probes import Look, Probes, difference, relative
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS408",
    "model.mask_is_obeyed",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="attention mask",
)
def mask_is_obeyed(probes: Probes) -> Iterator[Measured | Finding]:
    """What the mask hides is not seen.

    What it checks: other ids in the place of PAD, with the mask still 0 there, leave the state of
    every token of the rows as it was; and whether the same ids under a mask of ones would matter.

    Why it matters: a mask that gets lost on the way makes a text's meaning depend on how much
    padding stands before it.  On the left every token sees it, on the right only where attention
    looks ahead.

    How it is measured: largest difference of a token's state relative to its norm, between two
    batches of one shape; of the logits where no states are visible.  Allowed is four times the
    difference between rows alone and among copies of themselves, or torch.testing's relative
    tolerance for the dtype.  States and not pooled logits, because generic heads find the end of a
    text by its ids, which are what is changed here.

    How to fix: hand ``attention_mask`` on to the model and to each layer that mixes tokens.

    Known false alarms: models that find their positions by the pad id and are padded on the left.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    broken = _not_numbers({
        "as trained": probes.own,
        "with other ids under mask 0": probes.refilled,
        "with a mask of ones": probes.unmasked,
    })  # fmt: skip
    if broken:
        yield broken
        return
    hidden, allowed, what = _moved(probes, probes.refilled)
    shown, _, _ = _moved(probes, probes.unmasked)
    if not within(hidden, allowed):
        yield Finding(
            f"other ids under mask 0, {_place(probes)}, change {what} by {hidden:.3g}; "
            f"arithmetic explains {allowed:.2g}",
            observed=hidden,
            expected=f"at most {allowed:.3g}",
            where=f"padding on the {probes.side}",
            factor=None,
            cause="the attention mask is dropped, or does not reach every layer",
            fix="pass attention_mask to the model and on to every layer that mixes tokens",
        )
    needed = (
        f"a mask of ones would change {what} by {shown:.2g}"
        if not within(shown, allowed)
        else f"padding {_place(probes)} reaches no token even without a mask"
    )
    yield Measured(
        f"ids under mask 0 change {what} by {hidden:.2g} (allowed {allowed:.2g}); {needed}",
        {"masked": hidden, "unmasked": shown},
        allowed,
    )


def _moved(probes: Probes, look: Look) -> tuple[float, float, str]:
    if look.states is None or probes.own.states is None:
        return difference(look.logits, probes.own.logits), probes.allowed_logits, "logits"
    return relative(look.states, probes.own.states), probes.allowed_states, "the tokens' states"


def _place(probes: Probes) -> str:
    return "before the text" if probes.side == "left" else "behind the text"
