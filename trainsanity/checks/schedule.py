"""TS8: the learning rate over the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.record_trainer import NoStep
from ..measurements.recording import Recording
from ..measurements.schedule import Schedule
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
    acquits="learning rate",
)
def learning_rate_follows(schedule: Schedule, recording: Recording) -> Iterator[Seen | Finding]:
    """The optimizer uses the scheduled rate, step by step.

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
    # A run may be over sooner than one would look.
    planned = [schedule.curve.get(k, used[k]) for k in range(len(used))]
    wrong = [k for k, (seen, asked) in enumerate(zip(used, planned, strict=True))
             if not _equal(seen, asked)]  # fmt: skip
    curve = recording.curve or {}
    bent = [k for k, rate in curve.items()
            if k in schedule.curve and not _equal(rate, schedule.curve[k])]  # fmt: skip
    if wrong or bent:
        k = (wrong or bent)[0]
        seen, asked = (used[k], planned[k]) if wrong else (curve[k], schedule.curve[k])
        cause, fix = _why(used, planned, curve, schedule, bool(wrong and not bent))
        whose = "has the learning rate" if wrong else "is planned by the scheduler in use for"
        yield Finding(
            f"optimizer step {k + 1} {whose} {seen:.4g}; the arguments give {asked:.4g} there",
            observed=seen,
            expected=asked,
            factor=seen / asked if asked else None,
            where=f"step {k + 1}",
            cause=cause,
            fix=fix,
        )
    told = ", ".join(f"{rate:.3g} in step {k}" for k, rate in enumerate(used, 1))
    also = f"; the scheduler's own curve agrees at {len(curve)} steps" if curve else ""
    yield Seen(f"learning rate {told}{also}", used, planned)


@check(
    "TS803",
    "schedule.steps_are_taken",
    cost=Cost.STEP,
    needs=("trainer",),
    acquits="gradient accumulation",
)
def steps_are_taken(pipeline: Pipeline) -> Iterator[Seen | Finding]:
    """An epoch of the data gives at least one optimizer step.

    What it checks: that the Trainer steps before its first epoch ends.

    Why it matters: with ``max_steps`` such a run goes through its data for ever, the losses look
    like training, and no weight moves.  With ``num_train_epochs`` it ends as it began.

    How it is measured: the recorded steps are the Trainer's own.  It steps after
    ``gradient_accumulation_steps`` micro-batches, and after the last of an epoch if it knows how
    many there are.  A run that reaches the end of its first epoch with no step is stopped.

    How to fix: as the finding says, by what is missing: rows, or a last step in the epoch.

    Known false alarms: none; a run whose first epoch is to end without a step would be one.

    References: huggingface/transformers#2995; #37777, mended by #37923 in 4.52: the last
    micro-batches of an epoch are counted in rows, not in micro-batches.
    """
    try:
        taken = pipeline.measurements.get("recording").first
    except NoStep as none:
        cause, fix = _what_is_missing(pipeline, none.micro_batches)
        yield Finding(
            f"{none}; gradient_accumulation_steps = {pipeline.args.gradient_accumulation_steps}: "
            "no weight ever moves",
            observed=0,
            expected=1,
            where=f"{none.micro_batches} micro-batches of "
            f"{pipeline.args.per_device_train_batch_size} rows",
            cause=cause,
            fix=fix,
        )
        return
    # Of several processes each has micro-batches of its own.
    count = sum(micro.rank == taken.micro_steps[0].rank for micro in taken.micro_steps)
    yield Seen(f"the first optimizer step is taken after {count} micro-batches", 1, 1)


def _what_is_missing(pipeline: Pipeline, micro_batches: int) -> tuple[str, str]:
    """Cause and fix of an epoch without a step."""
    if not micro_batches:
        return (
            "the run has no epoch, or its DataLoader no batch",
            "num_train_epochs or max_steps above zero, and a sampler that draws rows",
        )
    if not hasattr(pipeline.train_dataset, "__len__"):
        return (
            "the IterableDataset ends before one step is full, and nobody knows its last batch",
            f"gradient_accumulation_steps of at most {micro_batches}, or a dataset that repeats",
        )
    return (
        "the loop does not count an epoch's last micro-batches right; transformers before 4.52 "
        "does not, and an overridden get_batch_samples may not",
        "transformers 4.52 or newer with its own get_batch_samples, or "
        f"gradient_accumulation_steps of at most {micro_batches}",
    )


def _equal(seen: float, asked: float) -> bool:
    return math.isclose(seen, asked, rel_tol=RELATIVE, abs_tol=1e-300)


def _why(
    used: list[float],
    planned: list[float],
    curve: dict[int, float],
    schedule: Schedule,
    in_time: bool,
) -> tuple[str, str]:
    """Cause and fix: steps taken too often, another peak, or another curve."""
    ratios = [seen / asked for seen, asked in zip(used, planned, strict=True) if asked]
    ratios += [curve[k] / schedule.curve[k] for k in curve if schedule.curve.get(k)]
    if in_time:
        return (
            "the scheduler is stepped more than once per optimizer step",
            "call lr_scheduler.step() once per optimizer step and nowhere else",
        )
    if ratios and all(_equal(ratio, ratios[0]) for ratio in ratios):
        return (
            f"the optimizer was built with {ratios[0]:.4g} x the learning_rate of the arguments",
            "give the optimizer the rate of TrainingArguments.learning_rate, or let the Trainer "
            "build it",
        )
    return (
        "the scheduler was built for other numbers of warm-up or training steps than the run's: "
        "per micro-batch or per process, perhaps",
        "let the Trainer build the scheduler, or give it optimizer steps of the whole run",
    )
