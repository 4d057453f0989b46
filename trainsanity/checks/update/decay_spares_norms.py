"""TS704 update.decay_spares_norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS704",
    "update.decay_spares_norms",
    cost=Cost.STEP,
    rules_out="optimizer",
)
def decay_spares_norms(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Weight decay spares norms and biases.

    What it checks: the ``weight_decay`` of the groups that hold parameters of normalisation layers
    and biases.

    Why it matters: decay pulls a norm's scale towards zero, where it has no business; in long runs
    that costs quality without showing in the loss for a long time.

    How it is measured: exact, by the optimizer's groups.  A normalisation is a module whose class
    says so in its name.

    How to fix: leave the groups to the Trainer, or give norms and biases a group with
    ``weight_decay=0``.

    Known false alarms: recipes that decay everything on purpose.

    References: huggingface/transformers#35927.
    """
    decayed = [
        p.name
        for p in recording.update.parameters
        if p.trainable and p.is_norm_or_bias and p.weight_decay
    ]
    if decayed:
        yield Finding(
            f"weight decay is applied to {len(decayed)} norms and biases",
            observed=len(decayed),
            expected=0,
            where=", ".join(decayed[:3]),
            cause="one parameter group for everything",
            fix="put norms and biases into a group with weight_decay=0, or let the Trainer group",
        )
    spared = sum(p.is_norm_or_bias for p in recording.update.parameters)
    yield Measured(f"{spared} norms and biases are not decayed", 0, 0)
