"""TS704 update.decay_spares_norms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

GROUPED = repair("the Trainer's own groups of weight decay", "norms_not_decayed")


@check(
    "TS704",
    "update.decay_spares_norms",
    cost=Cost.STEP,
    rules_out="optimizer",
)
def decay_spares_norms(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Weight decay leaves out norms and biases.

    What it checks: the ``weight_decay`` of the groups that hold parameters of normalisation layers
    and biases.

    Why it matters: decay pulls a norm's scale towards zero, where it has no business; in long runs
    that costs quality without showing in the loss for a long time.

    How it is measured: exact, by the optimizer's groups.  A normalisation is a module whose class
    says so in its name.  Where every group has the decay that the optimizer's class has by default
    (0.01 for torch's AdamW), nobody chose it, and a decay that small moves a norm by its rate times
    0.01 a step: that is a warning.

    How to fix: leave the groups to the Trainer, or give norms and biases a group with
    ``weight_decay=0``.

    Known false alarms: recipes that decay everything on purpose.

    References: huggingface/transformers#35927.
    """
    small = [p for p in recording.update.parameters if p.is_norm_or_bias]
    decayed = [p.name for p in small if p.trainable and p.weight_decay]
    if decayed:
        unchosen = recording.update.unchosen
        yield Finding(
            f"weight decay is applied to {len(decayed)} norms and biases",
            observed=len(decayed),
            expected=0,
            where=", ".join(decayed[:3]),
            cause=f"{recording.update.optimizer} decays all that it is given, by its default"
            if unchosen
            else "the optimizer's groups put them with the weights that are decayed",
            fix="put norms and biases into a group with weight_decay=0",
            repairs=(GROUPED,) if pipeline.trainer is not None else (),
            severity=Severity.WARNING if unchosen else Severity.FAILURE,
        )
    yield Measured(f"{len(decayed)} of {len(small)} norms and biases are decayed", len(decayed), 0)
