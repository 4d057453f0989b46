"""TS609 gradient.not_zero."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS609",
    "gradient.not_zero",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    rules_out="zero gradient",
)
def not_zero(recording: Recording) -> Iterator[Measured | Finding]:
    """The gradient of the first step is not zero.

    What it checks: the norm of the gradient that the first optimizer step is given, and how many of
    the trainable tensors have a gradient with an element that is not zero.

    Why it matters: a gradient of zeros is there, is finite, and trains nothing. Rewards that are
    all equal have no advantage, an adapter with A = B = 0 has no derivative, completions that are
    all truncated are masked: the loss is logged, the learning rate moves, and the weights stay.

    How it is measured: exact, from the accumulated gradients before the optimizer's step: every
    element of every trainable parameter. All of them zero is a failure. (An adapter whose B is zero
    has a gradient in B at the first step, and none in A: that is how LoRA begins.)

    How to fix: look at what the loss is made of: advantages (reward functions that always return
    the same), masks that leave no target, an initialisation with zeros on both sides.

    Known false alarms: none known.

    References: huggingface/trl#3857, modelscope/ms-swift#4547; read: peft's init_lora_weights.
    """
    trainable = [p for p in recording.update.parameters if p.trainable]
    norm = recording.first.norm_before_clip
    if norm == 0:
        yield Finding(
            f"the gradient of step 1 is zero in all of its {len(trainable)} trainable tensors",
            observed=0.0,
            expected="a norm above 0",
            where="step 1",
            cause=None,
            fix="look for rewards or advantages that are all equal, rows without a target, or "
            "an adapter whose two sides are both zero",
        )
    yield Measured(
        f"norm {norm:.4g} of the gradient of step 1, over {len(trainable)} trainable tensors",
        norm,
    )
