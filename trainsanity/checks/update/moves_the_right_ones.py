"""TS703 update.moves_the_right_ones."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.own_changes import OwnChanges
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity


@check(
    "TS703",
    "update.moves_the_right_ones",
    cost=Cost.STEP,
    requires=("update.survives_rounding",),
    rules_out="optimizer",
)
def moves_the_right_ones(recording: Recording) -> Iterator[Measured | Finding]:
    """Trainable parameters move, frozen ones stay.

    What it checks: that no parameter without ``requires_grad`` changed during the recorded step,
    and that each trainable one with a gradient, and in a dtype that lets it, has elements that move
    at the peak rate; and what the user's own callbacks, ``train()`` and ``training_step()`` write
    to weights beside it, and freeze.

    Why it matters: a group with a learning rate of zero, or code that writes to frozen weights,
    trains another model than the one that was configured.

    How it is measured: hashes of the frozen weights before and after the step, and the trial step
    of update.survives_rounding.  Exact, but for gradients that are rounding alone, as of a bias
    ahead of a batch norm: below the largest gradient times float32's unit in the last place.

    Frozen weights that are a moving average of trained ones, as in a momentum encoder, are meant to
    move: they lie between where they were and where those have been.

    How to fix: look for the parameter group, or the callback, that owns the named parameter.

    Known false alarms: a schedule of its own that keeps a group at zero for the whole run.

    References: huggingface/peft#310.
    """
    update = recording.update
    frozen = [p for p in update.parameters if not p.trainable]
    thawed = [p.name for p in update.parameters if p.changed_frozen and not p.follows]
    # update.survives_rounding judges what its dtype alone holds in place.
    movable = [p for p in update.parameters if p.with_gradient and p.can_move]
    stuck = [p.name for p in movable if not p.moved and not p.answers]
    for names, state, cause, fix in (
        (thawed, "frozen but changed", "something writes to weights outside the optimizer",
         "find what changes them: a callback, a hook, an in-place operation"),
        (stuck, "trainable, with a gradient, and not moved by the step",
         "their group's learning rate is zero, or something undoes the step",
         "look at the optimizer's group that holds them"),
    ):  # fmt: skip
        if names:
            yield Finding(
                f"{len(names)} parameter{'s are' if len(names) > 1 else ' is'} {state}",
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=cause,
                fix=fix,
            )
    yield from _by_own_code(recording.own_code, len(update.parameters))
    moving = len(movable) - len(stuck)
    yield Measured(
        f"{moving} of {len(movable)} parameters with a gradient move, {len(thawed)} of "
        f"{len(frozen)} frozen ones change",
        moving,
        len(movable),
    )


def _by_own_code(changes: OwnChanges, parameters: int) -> Iterator[Finding]:
    if changes.overriding or changes.writing:
        step = changes.steps[-1] if changes.overriding else changes.writing[-1]
        yield Finding(
            f"code beside the optimizer changes the weights by {step.changed:.3g}, the optimizer's "
            f"step by {step.moved:.3g}",
            observed=step.changed,
            expected=0.0,
            where=changes.who,
            cause=f"{changes.who} writes to weights" + " in each step" * bool(changes.overriding),
            fix="leave the weights to the optimizer, or write to a copy"
            if changes.overriding
            else "nothing, if it masks, clips or averages them on purpose",
            severity=Severity.FAILURE if changes.overriding else Severity.WARNING,
        )
    for names, how, cause, fix in (
        (changes.begun, "have other values when the first step begins than when train() was called",
         "writes to weights before the first step", "nothing, if it initialises them on purpose"),
        (changes.frozen, "that were trainable when train() was called are frozen in the step",
         "sets requires_grad to False",
         "nothing, if they are thawed later; else freeze them before the Trainer is built"),
    ):  # fmt: skip
        if names:
            yield Finding(
                f"{len(names)} of {parameters} parameters {how}",
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=f"{changes.who} {cause}",
                fix=fix,
                severity=Severity.WARNING,
            )
