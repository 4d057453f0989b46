"""TS802 schedule.learning_rate_follows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from trainsanity.checks.schedule._schedule import RELATIVE
from trainsanity.engine.registry import check
from trainsanity.isolation.callbacks import taking_part
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.measurements.step.steps import Recording
from trainsanity.proofs import Repair
from trainsanity.repairs import can_step_again, repair, trainers_own
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


PREPARED = (
    "accelerate steps a prepared scheduler once per process for each optimizer step, which is "
    "right for a schedule whose length was multiplied by the number of processes, and for no other",
    "count warm-up and training steps times accelerator.num_processes, or leave the scheduler out "
    "of accelerator.prepare",
)


OF_A_CALLBACK = (
    "a callback sets rates of its own, another in each step, as a search for the rate does",
    "nothing, if that is meant; otherwise leave the rate to lr_scheduler",
)

ONCE = repair("lr_scheduler.step() once per optimizer step", "schedule_by_the_step")


@check(
    "TS802",
    "schedule.learning_rate_follows",
    cost=Cost.STEP,
    rules_out="learning rate",
)
def learning_rate_follows(
    pipeline: Pipeline, schedule: Schedule, recording: Recording
) -> Iterator[Measured | Finding]:
    """The optimizer uses the scheduled learning rate in every step.

    What it checks: the rates that the optimizer used in the recorded steps, the one that is set
    for the step after them, and the whole curve of the scheduler in use, against the curve that
    the arguments describe.

    Why it matters: a scheduler that is stepped once per micro-batch or once per process runs
    through warm-up and decay that many times too fast; one that was built for another number of
    steps ends too early or never.

    How it is measured: the rates are read from the optimizer's parameter groups during the
    Trainer's own steps, the curve from the scheduler's own function; the expectation comes from
    the arguments alone.  They are the same double-precision operations, so only rounding is
    allowed.  The schedule multiplies the rate that a parameter group was built with, so an
    optimizer of the user's own is held against the curve at its own rate, and groups with different
    rates (layer by layer, or for the head) each at theirs.  `learning_rate` is unused there: where
    it was given for an optimizer of the same class and says another rate, that is a warning.

    How to fix: step the scheduler once per optimizer step (the Trainer does; a callback or an
    overridden ``training_step`` should not), do not hand it to ``accelerator.prepare`` with
    ``split_batches=False`` when it already counts global steps, and let ``learning_rate`` and the
    optimizer's own ``lr`` agree.

    Known false alarms: of a custom training loop in several processes a scheduler that accelerate
    prepared is a warning, as its length may have been multiplied for that; schedulers with a state
    beyond the step count are skipped.  A script's own scheduler that is stepped once per batch, and
    is as long as some of its epochs counted in batches, is a warning, too, unless the loop around
    says that there are more or fewer.  So are rates of a callback of your own that are others in
    each step and none of the schedule's.

    References: huggingface/accelerate#2142, huggingface/accelerate#963,
    huggingface/transformers#26827.
    """
    groups = [_used_and_planned(schedule, recording, k) for k in range(_groups(recording))]
    off = (k for k, (seen, asked) in enumerate(groups) if not all(map(_equal, seen, asked)))
    group = next(off, 0)
    used, planned = groups[group]
    wrong = [k for k, (seen, asked) in enumerate(zip(used, planned, strict=True))
             if not _equal(seen, asked)]  # fmt: skip
    curve = recording.curve or {}
    scale = _scale(schedule, recording, 0)
    scaled = replace(schedule, curve={k: scale * rate for k, rate in schedule.curve.items()})
    bent = [k for k, rate in curve.items()
            if k in scaled.curve and not _equal(rate, scaled.curve[k])]  # fmt: skip
    if wrong or bent:
        k = (wrong or bent)[0]
        seen, asked = (used[k], planned[k]) if wrong else (curve[k], scaled.curve[k])
        cause, fix = _why(used, planned, curve, scaled, bool(wrong and not bent))
        counted = bool(schedule.epochs) and schedule.run in (None, schedule.epochs)
        meant = not group and (counted or _per_process(used, schedule))
        if meant:
            cause, fix = _counted(schedule.epochs) if counted else PREPARED
        elif not bent and _curve_of_its_own(pipeline, used, planned, schedule):
            meant, (cause, fix) = True, OF_A_CALLBACK
        elif not bent and schedule.calls > 1:
            cause = _stepped(schedule, pipeline.args.gradient_accumulation_steps)
        whose = "has the learning rate" if wrong else "is planned by the scheduler in use for"
        yield Finding(
            f"optimizer step {k + 1} {whose} {seen:.4g}; the arguments give {asked:.4g} there",
            observed=seen,
            expected=asked,
            factor=seen / asked if asked else None,
            where=f"step {k + 1}" + (f", parameter group {group + 1}" if len(groups) > 1 else ""),
            cause=cause,
            fix=fix,
            repairs=_repairs(pipeline, paced=seen > 0),
            severity=Severity.WARNING if meant else Severity.FAILURE,
        )
    elif (unused := _unused(pipeline.args, schedule, recording)) is not None:
        rate = recording.peaks[0]
        yield Finding(
            f"the optimizer was built with the learning rate {rate:.4g}; learning_rate of the "
            f"arguments is {unused:.4g} and is not used",
            observed=rate,
            expected=unused,
            factor=rate / unused if unused else None,
            where=f"optimizer {recording.optimizer}",
            cause="the Trainer uses learning_rate only for an optimizer that it builds itself",
            fix="give the optimizer the rate of TrainingArguments.learning_rate, or let the "
            "Trainer build it",
            severity=Severity.WARNING,
        )
    several = f" in the first of {len(groups)} groups" if len(groups) > 1 else ""
    told = ", ".join(f"{rate:.3g} in step {k}" for k, rate in enumerate(groups[0][0], 1))
    also = f"; {len(bent)} of {len(curve)} points of the scheduler's curve differ" if curve else ""
    yield Measured(f"learning rate{several} {told}{also}", *groups[0])


def _stepped(schedule: Schedule, accumulation: int) -> str:
    """Return the cause where a scheduler is stepped several times for one optimizer step."""
    pace = ", once per micro-batch" if schedule.calls == accumulation else ""
    end = ""
    if schedule.epochs and schedule.run:
        end = f"; it was built for the batches of {schedule.epochs} of {schedule.run} epochs"
    return f"the scheduler is stepped {schedule.calls} times for one optimizer step{pace}{end}"


def _counted(epochs: int) -> tuple[str, str]:
    """Return cause and fix where a scheduler may count batches on purpose, for so many epochs."""
    some = "1 epoch has" if epochs == 1 else f"{epochs} epochs have"
    return (
        f"the scheduler is stepped once per batch and was built for as many steps as {some} "
        "batches: right if the run ends there, with a warm-up counted in batches; if it goes on, "
        "the curve is at its end too early",
        "step the scheduler after optimizer.step() alone, or count its steps, warm-up included, in "
        "batches of the whole run",
    )


def _repairs(pipeline: Pipeline, *, paced: bool) -> tuple[Repair, ...]:
    """Return what may mend it.

    Args:
        pipeline: a loop's own curve may be any, only its pace can be changed.
        paced: another pace would show: the rate is above 0.
    """
    if can_step_again(pipeline):
        return (ONCE,) if pipeline.lr_scheduler is not None and paced else ()
    own = [type(one).__name__ for one in taking_part(pipeline.trainer)]
    if pipeline.trainer is None:
        return ()
    pace = trainers_own(pipeline)
    if not own:
        return pace
    without = repair(
        f"without {' and '.join(own)}",
        "callbacks_left_out",
        names=(*own,),
        cause=f"a callback sets the rate, or steps the scheduler: {' or '.join(own)}",
        fix="leave the rate to lr_scheduler, which the Trainer steps once per optimizer step",
    )
    return (*pace, without)


def _per_process(used: list[float], schedule: Schedule) -> bool:
    """Return whether every rate is the one of a scheduler that is stepped once per process."""
    curve = schedule.per_process
    return curve is not None and all(
        _equal(rate, curve[k]) for k, rate in enumerate(used) if k in curve
    )


def _curve_of_its_own(
    pipeline: Pipeline, used: list[float], planned: list[float], schedule: Schedule
) -> bool:
    """Return whether a callback sets another rate in each step, none of them a scheduler's.

    Rates that lie on the planned curve are a scheduler's at another pace, and those that are a
    multiple of it are scaled; one rate for all steps takes the schedule away.
    """
    # What is set for the step after them is the scheduler's until that step begins.
    used, planned = used[:-1], planned[:-1]
    if pipeline.trainer is None or not taking_part(pipeline.trainer) or len(used) < 2:
        return False
    if len(set(used)) < len(used) or any(map(_equal, used, planned)):
        return False
    if any(_equal(rate, other) for rate in used for other in schedule.curve.values()):
        return False
    factors = [rate / other for rate, other in zip(used, planned, strict=True) if other]
    return len({round(math.log(abs(one)), 6) for one in factors if one}) > 1


def _groups(recording: Recording) -> int:
    """Return how many parameter groups are judged: all if they have rates of their own."""
    return len(recording.peaks) if len(set(recording.peaks)) > 1 else 1


def _scale(schedule: Schedule, recording: Recording, group: int) -> float:
    """Return a group's own rate over the schedule's; 1 if no group has any."""
    # A rate of NaN makes NaN of everything.
    if schedule.rate <= 0 or not any(rate > 0 for rate in recording.peaks):
        return 1.0
    return recording.peaks[group] / schedule.rate


def _unused(args: Any, schedule: Schedule, recording: Recording) -> float | None:
    """Return ``learning_rate`` if it was given for such an optimizer and is not what that has.

    A rate that was left at its default says nothing, one for AdamW nothing of gradient descent.
    """
    if not schedule.rate > 0 or _groups(recording) != 1:
        return None
    asked = float(args.learning_rate)
    defaults = {field.name: field.default for field in fields(args)}
    kind = str(getattr(args.optim, "value", args.optim))  # adamw_torch, sgd
    if asked == defaults.get("learning_rate") or not recording.optimizer:
        return None
    if not kind.startswith(recording.optimizer.lower()) or _equal(recording.peaks[0], asked):
        return None
    return asked


def _used_and_planned(
    schedule: Schedule, recording: Recording, group: int
) -> tuple[list[float], list[float]]:
    """Return the rates of a group by step, and those that the arguments give at its own scale."""
    if group:
        used = [step.rates[group] for step in recording.steps]
        used += recording.next_rates[group : group + 1]
    else:
        used = [step.learning_rate for step in recording.steps]
        # A script's own loop ends before the rate of the step after the last is set.
        used += [recording.next_learning_rate] if recording.next_rates else []
    scale = _scale(schedule, recording, group)
    if group and not schedule.rate > 0:  # a loop's scheduler may have a function for each group
        return used, used
    # A run may be over sooner than one would look.
    curve = schedule.curve
    return used, [scale * curve[k] if k in curve else rate for k, rate in enumerate(used)]


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
            f"every rate is {ratios[0]:.4g} x the optimizer's own times the schedule of the "
            "arguments: something multiplies it once more",
            "let the Trainer build the scheduler, and set no rate in the optimizer's groups",
        )
    return (
        "the scheduler was built for other numbers of warm-up or training steps than the run's: "
        "per micro-batch or per process, perhaps",
        "let the Trainer build the scheduler, or give it optimizer steps of the whole run",
    )
