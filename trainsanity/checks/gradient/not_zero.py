"""TS609 gradient.not_zero."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FLOAT32 = 2.0**-23
"""Unit in the last place of float32, in which losses and sums of gradients are kept."""


@check(
    "TS609",
    "gradient.not_zero",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    follows=(
        "model.adapter_can_move",
        "dataset.pairs_differ",
        "loss.advantages_differ",
        "gradient.reaches_every_parameter",
    ),
    rules_out="zero gradient",
)
def not_zero(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The gradient of the first step is not zero.

    What it checks: the norm of the gradient that the first optimizer step is given, and how many of
    the trainable tensors have a gradient with an element that is not zero.

    Why it matters: a gradient of zeros is there, is finite, and trains nothing. Rewards that are
    all equal have no advantage, an adapter with A = B = 0 has no derivative, completions that are
    all truncated are masked: the loss is logged, the learning rate moves, and the weights stay.

    How it is measured: exact, from the accumulated gradients before the optimizer's step: every
    element of every trainable parameter. All of them zero is a failure, and so is a norm below
    four units of float32 of the loss, where two sides of a pair cancel. Where a policy's rewards
    are equal in the first step alone, and not for the next prompts, it is a warning. (An
    adapter whose B is zero has a gradient in B at the first step, and none in A: that is how LoRA
    begins.)

    How to fix: look at what the loss is made of: advantages (reward functions that always return
    the same), masks that leave no target, an initialisation with zeros on both sides.

    Known false alarms: none known.

    References: huggingface/trl#3857, modelscope/ms-swift#4547; read: peft's init_lora_weights.
    """
    trainable = [p for p in recording.update.parameters if p.trainable]
    norm = recording.first.norm_before_clip
    if not math.isfinite(norm):
        raise Skip("the gradient is not finite: gradient.finite judges that")
    loss = abs(recording.first.logged.get("loss", 0.0))
    if norm <= MARGIN * FLOAT32 * loss or norm == 0:
        chance = norm == 0 and _by_chance(pipeline)
        yield Finding(
            f"the gradient of step 1 is zero in all of its {len(trainable)} trainable tensors"
            if norm == 0
            else f"the gradient of step 1 has a norm of {norm:.2g}, which is the rounding of a "
            f"loss of {loss:.4f}: what the loss is made of cancels",
            observed=norm,
            expected="a norm above 0",
            where="step 1",
            cause="the rewards of this step's completions are equal within each group, by chance: "
            "those of later prompts are not"
            if chance
            else None,
            fix="look for rewards or advantages that are all equal, rows without a target, a "
            "reward that is read where both sides of a pair are alike, or an adapter whose two "
            "sides are both zero",
            severity=Severity.WARNING if chance else Severity.FAILURE,
        )
    yield Measured(
        f"norm {norm:.4g} of the gradient of step 1, over {len(trainable)} trainable tensors",
        norm,
    )


def _by_chance(pipeline: Pipeline) -> bool:
    """Return whether a policy's further completions are rewarded differently."""
    try:
        rollouts = Session.of(pipeline).measurements.get("rollouts")
        return rollouts.counted > 0 and any(rollouts.further)
    except Skip:
        return False
