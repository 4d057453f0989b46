"""The rates that a scheduler of the user's own will give, step by step, without the run."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.measurements.step.schedule import planned_steps
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

AT_MOST = 20_000
"""Steps that are gone through: a second of them."""


SAME = 1e-6
"""Relative: a rate that a recursion has brought back."""


@dataclass(frozen=True)
class OwnSchedule:
    """Rates of the first group.

    Attributes:
        kind: class of the scheduler.
        steps: optimizer steps of the run.
        rates: of each of them, or of the first :data:`AT_MOST`.
        period: ``T_max`` of a cosine; None for other schedulers.
    """

    kind: str
    steps: int
    rates: list[float]
    period: int | None

    @property
    def peak(self) -> float:
        """The highest rate."""
        return max(self.rates)

    @property
    def rises(self) -> int:
        """How often the rate turns and goes up again, once it has come down from its peak."""
        first = next(k for k, rate in enumerate(self.rates) if rate >= self.peak * (1 - SAME))
        after = self.rates[first:]
        falls = [later < rate for rate, later in itertools.pairwise(after)]
        return sum(was and not now for was, now in itertools.pairwise(falls))

    def dead_from(self, share: float) -> int | None:
        """Return the step from which all rates together are at most this share of their sum."""
        left = sum(self.rates)
        bound = share * left
        for step, rate in enumerate(self.rates):
            if left <= bound:
                return step
            left -= rate
        return None


@measurement(Cost.STATIC)
def own_schedule(pipeline: Pipeline) -> OwnSchedule:
    """Step a copy of the scheduler through the run, with an optimizer that holds one number.

    Raises:
        Skip: the Trainer builds the scheduler, or it depends on more than the step.
    """
    import torch

    scheduler = getattr(pipeline.trainer, "lr_scheduler", None)
    scheduler = getattr(scheduler, "scheduler", scheduler)
    if scheduler is None:
        raise Skip("there is no scheduler of a user's own beside a Trainer that counts steps")
    if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler) or isinstance(
        scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau
    ):
        raise Skip(f"the rates of {type(scheduler).__name__} depend on more than the step")
    steps = planned_steps(pipeline)
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in
              scheduler.optimizer.param_groups]  # fmt: skip
    stand_in.param_groups = [{**copy.deepcopy(group), "params": []} for group in groups]
    try:
        walking = copy.deepcopy(scheduler, {id(scheduler.optimizer): stand_in})
        rates = [float(stand_in.param_groups[0]["lr"])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(min(steps, AT_MOST) - 1):
                walking.step()
                rates.append(float(stand_in.param_groups[0]["lr"]))
    except Exception as error:
        raise Skip(f"the scheduler cannot be gone through: {first_line(error)}") from error
    period: Any = getattr(scheduler, "T_max", None)
    return OwnSchedule(type(scheduler).__name__, steps, rates, period)
