"""TS802 schedule.learning_rate_follows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.checks.schedule._schedule import RELATIVE
from trainsanity.engine.registry import check
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS802",
    "schedule.learning_rate_follows",
    cost=Cost.STEP,
    rules_out="learning rate",
)
def learning_rate_follows(schedule: Schedule, recording: Recording) -> Iterator[Measured | Finding]:
    """The optimizer uses the scheduled learning rate in every step.

    What it checks: the rates that the optimizer used in the recorded steps, the one that is set
    for the step after them, and the whole curve of the scheduler in use, against the curve that
    the arguments describe.

    Why it matters: a scheduler that is stepped once per micro-batch or once per process runs
    through warm-up and decay that many times too fast; one that was built for another number of
    steps ends too early or never; an optimizer that was built with another rate trains at that.

    How it is measured: the rates are read from the optimizer's first parameter group during the
    Trainer's own steps, the curve from the scheduler's own function; the expectation comes from
    the arguments alone.  They are the same double-precision operations, so only rounding is
    allowed.

    How to fix: step the scheduler once per optimizer step (the Trainer does; a callback or an
    overridden ``training_step`` should not), do not hand it to ``accelerator.prepare`` with
    ``split_batches=False`` when it already counts global steps, and let ``learning_rate`` and the
    optimizer's own ``lr`` agree.

    Known false alarms: schedulers with a state beyond the step count are skipped; an optimizer
    whose first group has a rate of its own by design.

    References: huggingface/accelerate#2142, huggingface/accelerate#963,
    huggingface/transformers#26827.
    """
    used = [*(step.learning_rate for step in recording.steps), recording.next_learning_rate]
    # The run may end before the last of these steps.
    planned = [schedule.curve.get(k, used[k]) for k in range(len(used))]
    wrong = [k for k, (rate, right) in enumerate(zip(used, planned, strict=True))
             if not _equal(rate, right)]  # fmt: skip
    curve = {k: rate for k, rate in (recording.curve or {}).items() if k in schedule.curve}
    wrong_in_curve = [k for k, rate in curve.items() if not _equal(rate, schedule.curve[k])]
    if wrong or wrong_in_curve:
        k = (wrong or wrong_in_curve)[0]
        rate, right = (used[k], planned[k]) if wrong else (curve[k], schedule.curve[k])
        cause, fix = _why(used, planned, curve, schedule, bool(wrong and not wrong_in_curve))
        whose = "has the learning rate" if wrong else "is planned by the scheduler in use for"
        yield Finding(
            f"optimizer step {k + 1} {whose} {rate:.4g}; the arguments give {right:.4g} there",
            observed=rate,
            expected=right,
            factor=rate / right if right else None,
            where=f"step {k + 1}",
            cause=cause,
            fix=fix,
        )
    rates = ", ".join(f"{rate:.3g} in step {k}" for k, rate in enumerate(used, 1))
    rest = ""
    if curve:
        rest = f"; {len(wrong_in_curve)} of {len(curve)} points of the scheduler's curve differ"
    yield Measured(
        f"learning rate {rates}; the arguments give {', '.join(f'{r:.3g}' for r in planned)}{rest}",
        used,
        planned,
    )


def _equal(rate: float, right: float) -> bool:
    return math.isclose(rate, right, rel_tol=RELATIVE, abs_tol=1e-300)


def _why(
    used: list[float],
    planned: list[float],
    curve: dict[int, float],
    schedule: Schedule,
    only_used: bool,
) -> tuple[str, str]:
    """Return cause and fix: steps taken too often, another peak, or another curve.

    Args:
        used: the rates that the optimizer used, by step.
        planned: the rates that the arguments give.
        curve: the scheduler's own.
        schedule: as the arguments give it.
        only_used: the scheduler's curve is right where there is one, and the rates in use are not.
    """
    ratios = [rate / right for rate, right in zip(used, planned, strict=True) if right]
    ratios += [curve[k] / schedule.curve[k] for k in curve if schedule.curve[k]]
    if only_used:
        return (
            "the scheduler is stepped more or less than once per optimizer step"
            if curve
            else "the scheduler is stepped more or less than once per optimizer step, or it has "
            "another curve or peak than the arguments give",
            "call lr_scheduler.step() once per optimizer step and nowhere else",
        )
    if ratios and all(_equal(ratio, ratios[0]) for ratio in ratios):
        return (
            f"every rate is {ratios[0]:.4g} x that of the arguments: the optimizer was built with "
            "another learning rate",
            "give the optimizer the rate of TrainingArguments.learning_rate, or let the Trainer "
            "build it",
        )
    return (
        "the scheduler was built for other numbers of warm-up or training steps than the run's: "
        "per micro-batch or per process, perhaps",
        "let the Trainer build the scheduler, or give it optimizer steps of the whole run",
    )
