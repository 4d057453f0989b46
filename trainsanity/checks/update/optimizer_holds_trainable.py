"""TS701 update.optimizer_holds_trainable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import can_step_again, repair, trainers_own
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.step.later import Thawed
    from trainsanity.measurements.step.outside import Outside
    from trainsanity.pipeline import Pipeline

COMPLETED = repair("the optimizer holds what is trainable in the model", "groups_completed")


@check(
    "TS701",
    "update.optimizer_holds_trainable",
    cost=Cost.STEP,
    follows=("model.parts_are_registered",),
    rules_out="optimizer",
)
def optimizer_holds_trainable(
    pipeline: Pipeline, recording: Recording
) -> Iterator[Measured | Finding]:
    """The optimizer holds exactly the trainable parameters.

    What it checks: the tensors in the optimizer's groups against the model's parameters with
    ``requires_grad``, by identity; and against the parameters outside of the model that the loss
    is made with, as the vectors of the classes in ArcFace or ProxyNCA.

    Why it matters: an optimizer that was built before the head was replaced goes on stepping
    tensors that the model no longer uses, and a group that is left out stays as it is.  The loss
    moves a little, because the rest of the model learns around it.  A loss with parameters of its
    own keeps what it drew at random.

    How it is measured: exact, at the recorded step.  Parameters outside of the model are found in
    the graph that the backward pass goes through; those that any optimizer holds are left out.

    Callbacks that freeze and unfreeze are told of the beginnings of the epochs and steps to come,
    and what they make trainable is looked up in the optimizer; all is put back.

    How to fix: build the optimizer last, or leave it to the Trainer.  Give it the parameters of the
    loss as well::

        # bad
        torch.optim.AdamW(model.parameters())
        # good
        torch.optim.AdamW([*model.parameters(), *criterion.parameters()])

    Known false alarms: none known; a tensor that is frozen and held is not stepped, and passes.  A
    second network in train mode that the loss goes through, and that nobody trains, is a warning;
    in eval mode, as networks that compare pictures are, it is none.

    References: huggingface/accelerate#2665, sung-yeon-kim/Proxy-Anchor-CVPR2020#25,
    luxonis/luxonis-train#432.
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
    yield from _of_the_loss(update.outside, of_trainer=pipeline.trainer is not None)
    if update.thawed is not None:
        yield _thawed(update.thawed)
    held_count = len(trainable) - len(lost)
    yield Measured(
        f"{update.optimizer} holds {held_count} of {len(trainable)} trainable tensors, and "
        f"{update.strangers} elements that the model does not have",
        held_count,
        len(trainable),
    )


def _of_the_loss(outside: list[Outside], *, of_trainer: bool) -> Iterator[Finding]:
    if not outside:
        return
    certain = any(one.alone for one in outside)
    told = [one for one in outside if one.alone or not certain]
    elements = sum(one.elements for one in told)
    yield Finding(
        f"the loss is made with {elements} elements of parameters outside of the model, which no "
        "optimizer holds: they get a gradient, and stay as they are",
        observed=0,
        expected=len(told),
        where=", ".join(one.name for one in told[:3]),
        cause="the loss has parameters of its own, and the optimizer was given the model's"
        if certain
        else "a second network in train mode is part of the loss",
        fix="make them parameters of the model before the Trainer is built, which steps, zeroes "
        "and saves what its model has: model.criterion = criterion"
        if certain and of_trainer
        else "give them to the optimizer, too, and save them: [*model.parameters(), "
        "*criterion.parameters()]"
        if certain
        else "give its parameters to an optimizer; if it is there to be asked alone, call "
        "requires_grad_(False) and eval() on it",
        severity=Severity.FAILURE if certain else Severity.WARNING,
    )


def _thawed(thawed: Thawed) -> Finding:
    return Finding(
        f"{thawed.callback} makes {len(thawed.names)} parameters trainable {thawed.when}, and the "
        "optimizer does not hold them: they get a gradient then, and stay as they are",
        observed=0,
        expected=len(thawed.names),
        where=", ".join(thawed.names[:3]),
        cause="the optimizer was given what needed a gradient when it was built, and they were "
        "frozen then",
        fix="give the optimizer all parameters: those that are frozen have no gradient and take "
        "no step; or call optimizer.add_param_group where they are unfrozen",
    )
