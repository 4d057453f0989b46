"""TS701 update.optimizer_holds_trainable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import can_step_again, repair, trainers_own
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

COMPLETED = repair("the optimizer holds what is trainable in the model", "groups_completed")


@check(
    "TS701",
    "update.optimizer_holds_trainable",
    cost=Cost.STEP,
    rules_out="optimizer",
)
def optimizer_holds_trainable(
    pipeline: Pipeline, recording: Recording
) -> Iterator[Measured | Finding]:
    """The optimizer holds exactly the trainable parameters.

    What it checks: the tensors in the optimizer's groups against the model's parameters with
    ``requires_grad``, by identity.

    Why it matters: an optimizer that was built before the head was replaced goes on stepping
    tensors that the model no longer uses, and a group that is left out stays as it is.  The loss
    moves a little, because the rest of the model learns around it.

    How it is measured: exact, at the recorded step.

    How to fix: build the optimizer last, or leave it to the Trainer.

    Known false alarms: none known; a tensor that is frozen and held is not stepped, and passes.

    References: huggingface/accelerate#2665.
    """
    update = recording.update
    trainable = [p for p in update.parameters if p.trainable]
    lost = [p for p in trainable if not p.held]
    if lost or update.strangers:
        held = f"{len(trainable) - len(lost)} of {len(trainable)} trainable tensors"
        strange = (
            f" and {update.strangers} elements that the model does not have"
            if update.strangers
            else ""
        )
        yield Finding(
            f"the optimizer holds {held}{strange}",
            observed=len(trainable) - len(lost),
            expected=len(trainable),
            where=", ".join(p.name for p in lost[:3]) or "the optimizer's groups",
            cause="the optimizer was built before the model was changed"
            if update.strangers
            else "its groups leave them out, or they were frozen or added when it was built",
            fix="build the optimizer after the last change to the model, with all trainable "
            "parameters",
            repairs=(COMPLETED,) if can_step_again(pipeline) else trainers_own(pipeline),
        )
    held_count = len(trainable) - len(lost)
    yield Measured(
        f"{update.optimizer} holds {held_count} of {len(trainable)} trainable tensors, and "
        f"{update.strangers} elements that the model does not have",
        held_count,
        len(trainable),
    )
