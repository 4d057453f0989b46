"""TS804 schedule.rates_are_meant."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.isolation.rewind import rewound
from trainsanity.maths.factors import OF_A_SCHEDULE, explained, name_factor, only
from trainsanity.measurements.step.schedule import planned_steps
from trainsanity.proofs import Repair
from trainsanity.repairs import repair, trainers_own
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

LOOKED_AT = 10_000
"""Steps of a schedule that are evaluated where nobody says how long the run is."""

SAME = 1e-6
"""Relative: a factor and a rate that were computed by the same operations."""

HIGH = 0.5
"""Share of the peak above which a run that ends has not come down: linear and cosine schedules are
at half of it in their middle."""


@check("TS804", "schedule.rates_are_meant", rules_out="rates that nobody set")
def rates_are_meant(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Your own optimizer and scheduler use the rates that they were made with.

    What it checks: of a scheduler that you built, whether the function of ``LambdaLR`` returns
    factors, and whether it comes to its end when the run does; of an optimizer that you built,
    whether a loaded state has replaced its rate.

    Why it matters: none of it raises. A function that returns the rate itself has it multiplied by
    ``lr`` again, and 1e-3 becomes 1e-6. A schedule that was made for the number of batches ends at
    a quarter of its way with an accumulation of 4. ``optimizer.load_state_dict`` brings back the
    rate that the earlier run ended at.

    How it is measured: exact. The function's highest value over the run equals ``lr`` (and is not
    1); the step at which it comes to 0, over the planned steps, is a quantity of the run
    (accumulation, processes, epochs); the rate of all groups differs from the one that the
    optimizer's constructor was given, while its state is not empty.

    How to fix: return a factor (1.0 is ``lr``), count optimizer steps and not batches, and set
    ``group["lr"]`` after ``load_state_dict``.

    Bad::

        LambdaLR(optimizer, lambda step: 1e-3 * min(1, step / 100))

    Good::

        LambdaLR(optimizer, lambda step: min(1, step / 100))

    Known false alarms: none known.

    References: lhoyer/MIC#60, huggingface/diffusers#4387, facebookresearch/detr#301.
    """
    trainer = pipeline.trainer
    optimizer = pipeline.optimizer if trainer is None else trainer.optimizer
    scheduler = pipeline.lr_scheduler if trainer is None else trainer.lr_scheduler
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if optimizer is None or not getattr(optimizer, "param_groups", None):
        raise Skip("the Trainer builds optimizer and scheduler")
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    yield from _loaded(optimizer, scheduler, rates)
    told = ""
    factor = _factor(scheduler)
    if factor is not None:
        function, rate = factor
        steps = planned_steps(pipeline) if trainer is not None else None
        with rewound(schedule=function):  # it may be an object that counts its calls
            told = yield from _scheduled(pipeline, function, rate, steps)
    yield Measured(
        f"rates of {len(rates)} groups from {min(rates):.3g} to {max(rates):.3g}{told}", rates, None
    )


def _factor(scheduler: Any) -> tuple[Any, float] | None:
    """Return the function of the first group of a ``LambdaLR``, and the rate it multiplies."""
    import torch

    scheduler = getattr(scheduler, "scheduler", scheduler)
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return None
    return scheduler.lr_lambdas[0], float(scheduler.base_lrs[0])


def _scheduled(
    pipeline: Pipeline, function: Any, rate: float, steps: int | None
) -> Generator[Finding, None, str]:
    """Yield what is wrong with a schedule; return what it is, in words."""
    factors = list(_factors(function, min(steps or LOOKED_AT, LOOKED_AT)))
    if not factors:
        return ""
    highest = max(factors)
    told = f"; the schedule's highest factor is {highest:.4g}"
    if highest != 1 and math.isclose(highest, rate, rel_tol=SAME):
        yield Finding(
            f"the function of LambdaLR returns up to {highest:g}, which is lr itself: the rate "
            f"becomes {highest * rate:.3g}",
            observed=highest * rate,
            expected=rate,
            factor=highest,
            where="LambdaLR",
            cause="it returns a learning rate, and LambdaLR multiplies lr by what it returns",
            fix="return a factor: 1.0 is the whole of lr",
            repairs=trainers_own(pipeline),
        )
        return told
    end = _end(function, highest, steps) if steps else None
    if not steps or end is None or not highest > 0:
        return told
    facts = only(Session.of(pipeline).facts, OF_A_SCHEDULE)
    ratio = end / steps
    # A schedule counts whole steps: one more or less on either side.
    tolerance = 2 / min(end, steps)
    names = name_factor(ratio, facts, max(tolerance, 1e-3)) if abs(ratio - 1) > tolerance else ()
    at_end = next(_factors(function, 1, begin=steps - 1), 0.0) / highest
    if names and (ratio < 1 or at_end > HIGH):
        yield Finding(
            f"the schedule comes to 0 at step {end:,}, and the run has {steps:,} steps: "
            + (
                f"it ends at {at_end:.0%} of the peak"
                if ratio > 1
                else "nothing is learnt after that"
            ),
            observed=end,
            expected=steps,
            factor=ratio,
            where=f"step {min(end, steps):,}",
            cause=f"{explained(ratio, list(names))}: the schedule was made for another number of "
            "steps",
            fix="give it the number of optimizer steps: batches / accumulation x epochs",
            candidates=tuple(names),
            repairs=(_stretched(ratio), *trainers_own(pipeline)),
        )
    return f"{told}, and it comes to 0 at step {end:,} of {steps:,}"


def _stretched(ratio: float) -> Repair:
    """Return the repair of a schedule that was made for another number of steps."""
    words = f"the schedule {'sped up' if ratio > 1 else 'slowed down'} by {max(ratio, 1 / ratio):g}"
    return repair(words, "schedule_stretched", factor=ratio)


def _factors(function: Any, count: int, begin: int = 0) -> Iterator[float]:
    """Yield a schedule's factors, up to a step that it does not know, as a list's end."""
    for k in range(begin, begin + count):
        try:
            yield float(function(k))
        except Exception:
            return


def _end(function: Any, highest: float, steps: int) -> int | None:
    """Return the first step after the peak at which the factor is 0; None if that is far away."""
    if next(_factors(function, 1, begin=64 * steps), 1.0) > 0:  # constant, or with restarts
        return None
    falling = False
    for k, value in enumerate(_factors(function, min(64 * steps, 64 * LOOKED_AT))):
        falling |= value >= highest
        if falling and value <= 0:
            return k
    return None


def _loaded(optimizer: Any, scheduler: Any, rates: list[float]) -> Iterator[Finding]:
    """Yield a rate that came with a loaded state."""
    made = optimizer.defaults.get("lr")
    groups = optimizer.param_groups
    if not optimizer.state or not isinstance(made, float | int) or len(set(rates)) > 1:
        return
    if scheduler is not None or math.isclose(rates[0], made, rel_tol=SAME):
        return
    planned = all("initial_lr" in group for group in groups)
    yield Finding(
        f"the optimizer was made with lr {made:g} and uses {rates[0]:g}: its state was loaded",
        observed=rates[0],
        expected=made,
        factor=rates[0] / made if made else None,
        where="optimizer.param_groups",
        cause="load_state_dict brings the rate along that the earlier run ended at"
        + (", under a schedule that is not there any more" if planned else ""),
        fix="set group['lr'] for each group after load_state_dict",
        # Without a trace of a schedule it may have been lowered by hand, to go on from there.
        severity=Severity.FAILURE if planned else Severity.WARNING,
    )
