"""TS8: the learning rate over the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.schedule import Schedule
from ..measurements.trainer_step import TrainerStep
from ..registry import check
from ..types import Cost, Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline

EARLY = (2, 10, 20, 100)
"""Steps, counted from 1 as the Trainer logs them, whose share of the peak the report tells."""

RELATIVE = 1e-9
"""Both curves are the same few double-precision operations; this allows a thousand roundings."""


@check("TS801", "schedule.peak_is_reached", needs=("trainer",), acquits="learning rate")
def peak_is_reached(pipeline: Pipeline, schedule: Schedule) -> Iterator[Seen | Finding]:
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
    shares = {str(k): schedule.curve[k - 1] / asked for k in EARLY if k - 1 in schedule.curve}
    if schedule.peak < asked * (1 - RELATIVE):
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
    yield Seen(
        f"the peak {asked:g} is reached after {schedule.warmup_steps} warm-up steps"
        + (f"; {told}" if told else ""),
        {"peak": schedule.peak, "share_of_peak_at_step": shares},
        asked,
    )


@check(
    "TS802",
    "schedule.learning_rate_follows",
    cost=Cost.STEP,
    needs=("trainer",),
    acquits="learning rate",
)
def learning_rate_follows(
    schedule: Schedule, trainer_step: TrainerStep
) -> Iterator[Seen | Finding]:
    """The first optimizer step uses the scheduled rate, and moves the schedule by one step.

    What it checks: the rate that the optimizer used in step 1 and the one that is set for step 2
    against the simulated curve.

    Why it matters: a scheduler that is stepped once per micro-batch or once per process runs
    through warm-up and decay that many times too fast.

    How it is measured: both rates are read from the optimizer's parameter group during the
    Trainer's own step; the curve comes from the arguments alone.  They are the same
    double-precision operations, so only rounding is allowed.

    How to fix: step the scheduler once per optimizer step (the Trainer does; a callback or an
    overridden ``training_step`` should not), and do not hand it to ``accelerator.prepare`` with
    ``split_batches=False`` when it already counts global steps.

    Known false alarms: schedulers with a state beyond the step count are skipped.

    References: huggingface/accelerate#2142, huggingface/accelerate#963,
    huggingface/transformers#26827.
    """
    used = [trainer_step.learning_rate, trainer_step.next_learning_rate]
    planned = [schedule.curve[0], schedule.curve.get(1, schedule.curve[0])]
    for k, (seen, asked) in enumerate(zip(used, planned, strict=True)):
        if not math.isclose(seen, asked, rel_tol=RELATIVE, abs_tol=1e-300):
            yield Finding(
                f"optimizer step {k + 1} has the learning rate {seen:.4g}; "
                f"the schedule has {asked:.4g} there",
                observed=seen,
                expected=asked,
                factor=seen / asked if asked else None,
                where=f"step {k + 1}",
                cause="the scheduler is stepped more than once per optimizer step",
                fix="call lr_scheduler.step() once per optimizer step and nowhere else",
            )
    yield Seen(f"learning rate {used[0]:.3g} in step 1, {used[1]:.3g} in step 2", used, planned)
