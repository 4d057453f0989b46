"""TS806 schedule.comes_down_once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.maths.factors import OF_A_SCHEDULE, explained, name_factor, only
from trainsanity.measurements.step.own_schedule import OwnSchedule
from trainsanity.proofs import Repair
from trainsanity.repairs import setting, trainers_own
from trainsanity.repairs.settings import schedule_of
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

NOTHING = 1e-3
"""Share of the sum of all rates that is nothing beside the rest."""

MOST = 0.5
"""Share of the run: where more than half of the steps learn nothing, the schedule was made for a
shorter run. Of a linear schedule a thousandth of the sum is left for its last 3 %, of a cosine for
its last 8 %."""

NAMING = 0.02
"""Relative: how near a period comes to a quantity of the run, whose steps are rounded up."""


@check("TS806", "schedule.comes_down_once", rules_out="a schedule that was made for epochs")
def comes_down_once(pipeline: Pipeline, own_schedule: OwnSchedule) -> Iterator[Measured | Finding]:
    """A scheduler of your own decays as often as its class does, and not before its time.

    What it checks: the rates of the whole run, of a scheduler that you built: whether they are as
    good as 0 for most of it, and whether a cosine that has no restarts goes up again.

    Why it matters: examples step a scheduler once an epoch, and the Trainer steps it once a step.
    ``T_max=epochs`` then swings all run long and ends wherever it happens to be;
    ``ExponentialLR(gamma=0.9)`` is at nothing after a hundred steps.

    How it is measured: exact. A copy of the scheduler is stepped through the run with an optimizer
    that holds one number. A failure if the rates of more than half of the steps are together no
    more than a thousandth of the sum of all, or if ``T_max`` is a quantity of the run (its epochs,
    or its steps over accumulation) and not its steps. Any other swing is a warning.

    How to fix: count optimizer steps::

        # bad
        CosineAnnealingLR(optimizer, T_max=num_train_epochs)
        # good
        CosineAnnealingLR(optimizer, T_max=steps_per_epoch * num_train_epochs)

    Known false alarms: none known. ``CosineAnnealingWarmRestarts``, ``CyclicLR`` and ``OneCycleLR``
    go up on purpose.

    References: ivadomed/ivadomed#57.
    """
    seen, steps = own_schedule, own_schedule.steps
    dead = seen.dead_from(NOTHING)
    if dead is not None and dead < MOST * len(seen.rates):
        yield Finding(
            f"the rates from step {dead:,} of {steps:,} on add up to a thousandth of the sum of "
            f"all, and the peak is {seen.peak:.3g}: nothing is learnt in the rest",
            observed=dead,
            expected=f"more than {MOST * steps:,.0f}",
            where=seen.kind,
            cause="the schedule was made for fewer steps: it is stepped once for each optimizer "
            "step, and not once an epoch",
            fix="give it the number of optimizer steps, or a slower decay",
            repairs=(*_slower(pipeline, steps), *trainers_own(pipeline)),
        )
    elif seen.period and seen.rises and seen.kind == "CosineAnnealingLR":
        facts = only(Session.of(pipeline).facts, OF_A_SCHEDULE)
        epochs = seen.period == round(float(pipeline.args.num_train_epochs))
        names = () if epochs else name_factor(seen.period / steps, facts, NAMING)
        yield Finding(
            f"T_max is {seen.period:,} and the run has {steps:,} steps: the rate goes up again "
            f"{seen.rises} times, and ends at {seen.rates[-1]:.3g} of a peak of {seen.peak:.3g}",
            observed=seen.period,
            expected=steps,
            factor=seen.period / steps,
            where=seen.kind,
            cause="T_max is the number of epochs, and the scheduler is stepped with each optimizer "
            "step"
            if epochs
            else f"{explained(seen.period / steps, list(names))}: T_max was made for another "
            "number of steps"
            if names
            else "CosineAnnealingLR goes up again behind T_max",
            fix="T_max is the number of optimizer steps; CosineAnnealingWarmRestarts, if restarts "
            "are meant",
            candidates=tuple(names),
            severity=Severity.FAILURE if epochs or names else Severity.WARNING,
            repairs=(setting("lr_scheduler", "T_max", steps), *trainers_own(pipeline)),
        )
    yield Measured(
        f"{seen.kind}: rates from {max(seen.rates):.3g} to {min(seen.rates):.3g} over {steps:,} "
        f"steps, turning upwards {seen.rises} times",
        {"peak": seen.peak, "end": seen.rates[-1], "rises": seen.rises},
    )


def _slower(pipeline: Pipeline, steps: int) -> tuple[Repair, ...]:
    """Return the repair of an exponential decay that was meant for epochs."""
    epochs, gamma = pipeline.args.num_train_epochs, getattr(schedule_of(pipeline), "gamma", None)
    if not gamma or type(schedule_of(pipeline)).__name__ != "ExponentialLR":
        return ()
    return (setting("lr_scheduler", "gamma", gamma ** (float(epochs) / steps)),)
