"""TS801 schedule.peak_is_reached."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.schedule._schedule import RELATIVE
from trainsanity.engine.registry import check
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


EARLY = (2, 10, 20, 100)
"""Steps, counted from 1 as the Trainer logs them, whose share of the peak the report tells."""


@check("TS801", "schedule.peak_is_reached", needs=("trainer",), rules_out="learning rate")
def peak_is_reached(pipeline: Pipeline, schedule: Schedule) -> Iterator[Measured | Finding]:
    """The run reaches the learning rate that was asked for.

    What it checks: the highest rate of the simulated schedule against ``learning_rate``.

    Why it matters: a warm-up that is as long as the run, because the data shrank or the batch
    grew, trains at a fraction of the rate and looks like a model that does not learn.

    How it is measured: the scheduler that the arguments describe is built on a stand-in parameter
    and its factor evaluated over the planned steps.  Warm-up of W steps in a run of T > W reaches
    the peak exactly; the comparison allows rounding in the ninth decimal.

    How to fix: fewer ``warmup_steps``, a ratio instead of a number, or more steps.

    Known false alarms: schedules that stay below the peak by design.

    References: ``transformers.get_scheduler``.
    """
    asked = pipeline.args.learning_rate
    broken = [k for k, rate in schedule.curve.items() if not math.isfinite(rate)]
    if broken or not math.isfinite(asked):
        k = broken[0] if broken else 0
        yield Finding(
            f"learning_rate is {asked:g}, and the schedule gives {schedule.curve[k]:g} for step "
            f"{k + 1}: that is no rate",
            observed=schedule.curve[k],
            expected="a number",
            where=f"learning_rate = {asked:g}, step {k + 1}",
            cause="a learning rate that is no number, or a division by zero in the schedule",
            fix="give learning_rate, and the schedule's own arguments, as finite numbers",
        )
        return
    shares = {str(k): schedule.curve[k - 1] / asked for k in EARLY if k - 1 in schedule.curve}
    if not schedule.peak >= asked * (1 - RELATIVE):
        yield Finding(
            f"the run of {schedule.max_steps} steps never reaches learning_rate {asked:g}: "
            f"it ends inside a warm-up of {schedule.warmup_steps} steps at {schedule.peak:.3g}",
            observed=schedule.peak,
            expected=asked,
            factor=schedule.peak / asked,
            where=f"warmup_steps = {schedule.warmup_steps}, steps = {schedule.max_steps}",
            cause="the warm-up is longer than the run",
            fix="lower warmup_steps below the number of optimizer steps",
        )
    told = "; ".join(f"step {k} is at {share:.2%} of it" for k, share in shares.items())
    yield Measured(
        f"the peak {asked:g} is reached after {schedule.warmup_steps} warm-up steps"
        + (f"; {told}" if told else ""),
        {"peak": schedule.peak, "share_of_peak_at_step": shares},
        asked,
    )
