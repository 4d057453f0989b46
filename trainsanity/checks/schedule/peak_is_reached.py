"""TS801 schedule.peak_is_reached."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.schedule._schedule import RELATIVE
from trainsanity.engine.registry import check
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.repairs import setting
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


EARLY = (2, 10, 20, 100)
"""Steps, counted from 1 as the Trainer logs them, whose share of the peak is reported."""

HALF = 0.5
"""Share of the peak between a rate that is up and one that has come down: a schedule that comes
down once is below it at its end, whatever its form."""


@check("TS801", "schedule.peak_is_reached", needs=("trainer",), rules_out="learning rate")
def peak_is_reached(pipeline: Pipeline, schedule: Schedule) -> Iterator[Measured | Finding]:
    """The run reaches its peak learning rate, and does not end there again.

    What it checks: the highest rate of the simulated schedule against ``learning_rate``, or, where
    the user built the optimizer, against the rate that it was built with; and whether the rate is
    up at the end of a run in which it had come down.

    Why it matters: with a warm-up that is as long as the run, because the data shrank or the batch
    grew, the model trains at a fraction of the rate and seems not to learn. A cosine with
    ``num_cycles=1`` rises again in the second half, and the last steps undo what was settled.

    How it is measured: the scheduler that the arguments describe is built on a stand-in parameter
    and its factor evaluated over the planned steps.  Warm-up of W steps in a run of T > W reaches
    the peak exactly; the comparison allows rounding in the ninth decimal. Up and down are above and
    below half of the peak.

    How to fix: fewer ``warmup_steps``, a ratio instead of a number, or more steps::

        # bad
        TrainingArguments(lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_cycles": 1})
        # good
        TrainingArguments(lr_scheduler_type="cosine")

    Known false alarms: schedules that stay below the peak by design.

    References: ``transformers.get_scheduler``; ``transformers.get_cosine_schedule_with_warmup``.
    """
    peak = schedule.rate or pipeline.args.learning_rate
    broken = [k for k, rate in schedule.curve.items() if not math.isfinite(rate)]
    if broken or not 0 < peak < math.inf:
        k = broken[0] if broken else 0
        yield Finding(
            f"learning_rate is {peak:g}, and the schedule gives {schedule.curve[k]:g} for step "
            f"{k + 1}: that is no rate",
            observed=schedule.curve[k],
            expected="a number above 0",
            where=f"learning_rate = {peak:g}, step {k + 1}",
            cause="learning_rate is no number above 0, or the schedule divides by zero",
            fix="give learning_rate as a number above 0, and finite arguments of the schedule",
        )
    elif not schedule.peak >= peak * (1 - RELATIVE):
        inside = schedule.warmup_steps >= schedule.max_steps
        yield Finding(
            f"the run of {schedule.max_steps} steps never reaches learning_rate {peak:g}: its "
            f"highest rate is {schedule.peak:.3g}"
            + (f", inside a warm-up of {schedule.warmup_steps} steps" if inside else ""),
            observed=schedule.peak,
            expected=peak,
            factor=schedule.peak / peak,
            where=f"warmup_steps = {schedule.warmup_steps}, steps = {schedule.max_steps}",
            cause="the warm-up is not shorter than the run"
            if inside
            else "the schedule stays below the rate that it is given",
            fix="lower warmup_steps below the number of optimizer steps"
            if inside
            else "read the schedule's own arguments, lr_scheduler_kwargs",
            repairs=(setting("args", "warmup_steps", 0),) if inside and schedule.max_steps else (),
        )
    elif risen := _risen(schedule):
        low, lowest, last = risen
        yield Finding(
            f"the rate falls to {lowest:.2g} at step {low + 1} and rises again: the run of "
            f"{schedule.max_steps} steps ends at {last / peak:.0%} of its peak",
            observed=last,
            expected=f"below {HALF:.0%} of {peak:g}",
            factor=last / peak,
            where=f"lr_scheduler_kwargs = {pipeline.args.lr_scheduler_kwargs}",
            cause="num_cycles of a cosine counts whole waves: 0.5 is one fall, and 1 rises again",
            fix="leave num_cycles at 0.5; for falls that begin again at the peak take "
            "lr_scheduler_type='cosine_with_restarts'",
            repairs=(setting("args", "lr_scheduler_kwargs", {}),),
        )
    shown = [k for k in EARLY if k - 1 in schedule.curve and peak]
    shares = {str(k): schedule.curve[k - 1] / peak for k in shown}
    early = "".join(f"; step {k} is at {share:.2%} of it" for k, share in shares.items())
    yield Measured(
        f"{schedule.max_steps} steps, {schedule.warmup_steps} of warm-up: the highest learning "
        f"rate is {schedule.peak:.6g}, learning_rate is {peak:g}{early}",
        {"peak": schedule.peak, "share_of_peak_at_step": shares},
        peak,
    )


def _risen(schedule: Schedule) -> tuple[int, float, float] | None:
    """Return the lowest step behind the peak, its rate and the last one, if the curve rises."""
    steps = sorted(schedule.curve)
    top = max(steps, key=schedule.curve.__getitem__)
    behind = [k for k in steps if k >= top]
    low, last = min(behind, key=schedule.curve.__getitem__), schedule.curve[steps[-1]]
    half = HALF * schedule.peak
    return (low, schedule.curve[low], last) if schedule.curve[low] < half < last else None
