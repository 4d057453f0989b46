"""TS437 model.merged_equals_unmerged."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.model.merging import Merged
from trainsanity.types import Abstain, Cost, Finding, Measured, Severity


@check(
    "TS437",
    "model.merged_equals_unmerged",
    cost=Cost.FORWARD,
    requires=(
        "model.eval_is_repeatable",
        "model.adapter_can_move",
        "model.adapters_are_not_nested",
    ),
    rules_out="merging",
)
def merged_equals_unmerged(merged: Merged) -> Iterator[Measured | Finding]:
    """Merging the adapter does not change the logits.

    What it checks: the logits of two rows with the adapter beside its base, and merged into it.

    Why it matters: what is deployed is mostly the merged model. An adapter on one of two tied
    weights, one whose forward is not the product that is merged, or a scaling that merging does not
    know, makes another model of it, and nobody asks before it is served.

    How it is measured: the adapter's weights are drawn at random, because a new adapter is zero and
    merges into anything; `merge_adapter()` is called; afterwards all is put back. The bound is four
    times what the rounding of a merged weight makes of the logits: each weight is changed by its
    last place and the rows are asked once more.

    Where layers of one kind share a weight and each has an adapter of its own, as with PEFT's
    ``layer_replication``, training is as it ought to be, and the finding is a warning: it is told
    before somebody merges.

    How to fix: take the adapter off tied weights, or untie them; mend `get_delta_weight`.

    Bad::

        LoraConfig(target_modules=["embed_tokens", "q_proj"])  # tie_word_embeddings is True

    Good::

        LoraConfig(target_modules=["q_proj", "v_proj"])

    Known false alarms: none known; an adapter that is never merged need not care, and
    `expected_failures` can say so.

    References: huggingface/peft#2777.
    """
    bound = MARGIN * merged.noise
    if merged.moved <= bound:
        raise Abstain(
            f"the adapter moves a logit by {merged.moved:.3g}, and rounding by {merged.noise:.3g}"
        )
    if not within(merged.change, bound):
        yield Finding(
            f"merging the adapter changes logits by up to {merged.change:.3g}, and rounding "
            f"explains {bound:.3g}: the merged model is another one",
            observed=merged.change,
            expected=f"at most {bound:.3g}",
            cause="the adapter stands on a weight that is shared with another layer, or its "
            "forward is not what is merged",
            fix="leave tied embeddings out of target_modules (or load the model with "
            "tie_word_embeddings=False), and compare the adapter's forward with its delta weight"
            if not merged.replicated
            else "keep the adapter apart from its base; do not merge it",
            severity=Severity.WARNING if merged.replicated else Severity.FAILURE,
        )
    yield Measured(
        f"merging the adapter changes logits by up to {merged.change:.3g}; rounding by up to "
        f"{merged.noise:.3g}, the adapter by {merged.moved:.3g}",
        merged.change,
        f"at most {bound:.3g}",
    )
