"""TS808 schedule.drives_the_optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import trainers_own
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


OPTION = {"learning_rate": "lr"}
"""Options by the names that people give them."""


@check(
    "TS808",
    "schedule.drives_the_optimizer",
    cost=Cost.STEP,
    rules_out="a scheduler of another optimizer, and rates that are set where nothing reads them",
)
def drives_the_optimizer(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """What sets the rates reaches the optimizer that steps.

    What it checks: whether the parameter groups in which the scheduler sets rates are those that
    the optimizer reads them from when it steps, and whether a loop or callback sets an option as an
    attribute of the optimizer (``optimizer.lr = ...``), which torch never reads.

    Why it matters: a scheduler belongs to the optimizer that it was made with. Where another one
    takes the steps, because it was built anew or a function that returns both was called twice,
    its rate stays where it was: at 0, if a warm-up had begun there. The log shows the scheduler's
    rates, which look right.

    How it is measured: exact, by identity, at the recorded steps. Wrappers (accelerate's, or an
    optimizer that keeps the groups of another) are looked through. In a script's own loop: a
    scheduler that is stepped for another optimizer of the same parameters, which never steps, while
    none is for the one that does. An attribute counts that is named as an option of one of torch's
    own optimizers and has another value than each of its groups while the steps are recorded.

    How to fix: make the scheduler last, of the optimizer in use::

        # bad
        optimizer, _ = build(model)
        _, scheduler = build(model)
        # good
        optimizer, scheduler = build(model)

        # bad
        optimizer.lr = rate
        # good
        for group in optimizer.param_groups:
            group["lr"] = rate

    Known false alarms: none known.

    References: roboterax/video-prediction-policy#14, V2AI/Det3D#109.
    """
    seen, beside = recording.driven, recording.beside_groups
    if seen is None and not beside:
        raise Skip("no scheduler is stepped beside the optimizer")
    for name, (value, used) in beside.items():
        yield Finding(
            f"optimizer.{name} is set to {_short(value)}, and torch's {recording.optimizer} reads "
            f"its groups, where it is {_short(used)}",
            observed=_short(used),
            expected=_short(value),
            where=f"optimizer.{name}",
            cause="an attribute of the optimizer is no option of its groups",
            fix=f'for group in optimizer.param_groups: group["{OPTION.get(name, name)}"] = ...',
        )
    if seen is not None and seen.apart:
        rate = recording.steps[-1].learning_rate
        still = f"; the rate in use stays at {rate:.4g}" if math.isfinite(rate) else ""
        yield Finding(
            f"the {seen.scheduler} that is stepped sets the rates of another optimizer than the "
            f"{recording.optimizer} that steps{still}",
            observed=rate,
            expected="the scheduler's rate",
            where="optimizer and lr_scheduler",
            cause=f"the scheduler was made with another {seen.optimizer}, which nobody "
            "uses: one was built again, or the two come from two calls of one function",
            fix="make the scheduler from the optimizer that is passed on: optimizers=(optimizer, "
            "scheduler) with scheduler.optimizer is optimizer"
            if pipeline.trainer is not None
            else "make the scheduler from the optimizer whose step() is called",
            repairs=trainers_own(pipeline),
        )
    setters = [] if seen is None else [f"the {seen.scheduler}"]
    setters += [f"optimizer.{name}" for name in beside]
    reaching = int(seen is not None and not seen.apart)
    yield Measured(
        f"{reaching} of {len(setters)} reach the {recording.optimizer} that steps: "
        f"{', '.join(setters)}",
        reaching,
        len(setters),
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
