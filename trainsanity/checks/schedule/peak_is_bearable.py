"""TS805 schedule.peak_is_bearable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import REGRESSION
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

COIN = math.log(2)
"""Loss of a coin that is tossed between two answers.  A model that knows its rows has less, and may
lose some of it without being destroyed: growth counts from here."""

HALF = 0.5
"""Share of the loss above which most of it is the distance of the targets' mean."""

TWICE = 2.0
"""How many times the loss may grow in one step on the very rows that it was taken on.  Seen on 100
healthy pipelines: 0.76 to 1.13."""

SHORT = 10.0
"""How many times the run falls short of the targets' mean before that is told: outputs grow faster
than to first order, since the layers below them grow, too.  Chosen, and on the safe side of it."""

FROZEN = 1e-4
"""Share of the loss that the whole run has to lower it by, to first order, to be called learning.
Chosen: the least that healthy pipelines of 40 steps showed is three times as much."""


@check(
    "TS805",
    "schedule.peak_is_bearable",
    cost=Cost.STEP,
    requires=("gradient.not_zero", "update.survives_rounding", "update.goes_downhill"),
    rules_out="a learning rate that is off by orders of magnitude",
)
def peak_is_bearable(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """A step at the peak learning rate changes the model, and does not destroy it.

    What it checks: the loss of the first micro-batch before the run and after a step at the peak
    rate; and what all rates of the schedule together can lower it by, to first order.

    Why it matters: a rate that is a hundred times too high (5e-5 written as 5e-3, the rate of LoRA
    for all weights, of SGD for Adam) overwrites what was pretrained within a few steps, and the
    model answers everything with one class. One that is a thousand times too low ends where it
    began, and looks like data that cannot be learnt.

    How it is measured: the user's own optimizer takes the recorded step once more at the peak rate,
    ``compute_loss`` is asked again for the first micro-batch with the same random numbers, and the
    step is taken back. A failure if that loss is more than twice what it was, or than log 2 where
    it was below that. For the other end the slope of the loss in that step, movement times
    gradient, is added up over the rates of the schedule: less than 1e-4 of the loss is a warning,
    since a few steps are tried with any rate. Of a squared error it has to reach the targets' mean,
    where it would be their variance: ten times too little is a failure.

    How to fix: a rate that others use with this optimizer: under AdamW 1e-5 to 5e-5 for all
    weights, 1e-4 to 3e-4 for LoRA; targets of a regression are brought to mean 0 and variance 1::

        # bad
        TrainingArguments(learning_rate=5e-1)
        # good
        TrainingArguments(learning_rate=5e-5)

    Known false alarms: none known. With a long warm-up no step is as large as this one: Adam's
    first moves every weight by the whole rate.

    References: huggingface/transformers#735, huggingface/transformers#1138.
    """
    own = recording.own
    if not recording.update.trials:
        raise Skip(recording.update.no_trial)
    if not own.losses:
        raise Skip(own.reason or "the first micro-batch was not asked again")
    before, after, rate = own.losses[0], recording.peak_loss, recording.update.rate
    told = ""
    if math.isfinite(before) and not math.isnan(after):
        told = f"the loss of a micro-batch is {before:.4f}, after a step at {rate:g} {after:.4f}"
        if before >= 0 and not within(after, TWICE * max(before, COIN)):
            yield Finding(
                f"one step at the peak rate of {rate:g} takes the loss of its own rows from "
                f"{before:.4f} to {after:.4f}",
                observed=after,
                expected=f"at most {TWICE * max(before, COIN):.4f}",
                factor=after / before if before else None,
                where=f"learning_rate = {rate:g}",
                cause="the learning rate is too high: one step overwrites what the weights held",
                fix="lower learning_rate by a factor of ten and look again; under AdamW 1e-5 to "
                "5e-5 for all weights, 1e-4 to 3e-4 for LoRA",
            )
    share = _lowered(recording) / abs(before) if before else math.nan
    if math.isfinite(share):
        told += f"{'; ' * bool(told)}all steps can lower it by {share:.2g} of it, to first order"
        needed = _needed(pipeline, recording, before)
        if needed > HALF and share * SHORT < needed:
            yield Finding(
                f"all {recording.max_steps:,} steps together can lower the loss by {share:.1g} of "
                f"it, to first order; predicting the mean of the targets takes {needed:.2g}",
                observed=share,
                expected=needed,
                where=f"learning_rate = {rate:g}",
                cause="the targets are far from the outputs: no step moves an output by much more "
                "than the rate",
                fix="train on (y - mean) / deviation of the targets, and undo it in predictions",
            )
        elif share < FROZEN:
            yield Finding(
                f"all {recording.max_steps:,} steps together can lower the loss by {share:.1g} of "
                "it, to first order",
                observed=share,
                expected=f"at least {FROZEN:g}",
                where=f"learning_rate = {rate:g}",
                cause="the learning rate is too low, or what is trained hardly touches the loss",
                fix="raise learning_rate, or train more of the model",
                severity=Severity.WARNING,
            )
    if not told:
        raise Skip("the loss could not be asked again after a step at the peak rate")
    yield Measured(told, {"before": before, "after": after if math.isfinite(after) else None})


def _needed(pipeline: Pipeline, recording: Recording, loss: float) -> float:
    """Return the share of a squared error that is gone once the targets' mean is predicted."""
    labels = recording.first.micro_steps[0].inputs.get("labels")
    if objective_of(pipeline).name != REGRESSION or labels is None or not loss > 0:
        return 0.0
    return 1 - float(labels.float().var(0, correction=0).mean()) / loss


def _lowered(recording: Recording) -> float:
    """Return what the slope of the trial step comes to over all rates of the schedule."""
    trial, curve = recording.update.trials[-1], recording.curve
    slope = sum(one.slope for one in trial.directions.values())
    step = recording.steps[-1]
    if step.norm_after_clip > 0 and step.norm_before_clip > step.norm_after_clip:
        slope *= step.norm_before_clip / step.norm_after_clip  # the loss's own gradient
    if not curve or not trial.rate > 0 or not recording.max_steps:
        return math.nan
    known = [rate for step, rate in curve.items() if step < recording.max_steps]
    mean = sum(known) / len(known) if known else math.nan
    return -slope * recording.max_steps * mean / trial.rate
