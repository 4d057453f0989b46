"""Movement of parameters in a trial step, against their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.sampling import sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """How one parameter moved in a trial step.

    Attributes:
        slope: sum over the elements of movement times gradient: what the step adds to the loss, to
            first order.
        gradient: 2-norm of the gradient.
        movement: 2-norm of the movement.
        by_decay: the part of the slope that decay alone makes, ``-rate * weight_decay * w``.
    """

    slope: float
    gradient: float
    movement: float
    by_decay: float

    @property
    def own_slope(self) -> float:
        """Slope of the movement without what weight decay makes."""
        return self.slope - self.by_decay


@dataclass(frozen=True)
class Trial:
    """One more step of the optimizer with the same gradients, taken back.

    Attributes:
        step: of the schedule whose rate it was made at, counted from 0; None for the peak.
        rate: that learning rate.
        shares: by dtype, ``(elements with a gradient, those that moved, those that an update as
            large as the rate would change in this dtype)``.
        directions: of the parameters that the step was to move, by name.
    """

    step: int | None
    rate: float
    shares: dict[str, tuple[int, int, int]]
    directions: dict[str, Direction] = field(default_factory=dict)

    def moved(self) -> float:
        """Share of all elements with a gradient that moved."""
        touched = sum(row[0] for row in self.shares.values())
        return sum(row[1] for row in self.shares.values()) / touched if touched else float("nan")

    def cosine(self) -> float:
        """Cosine of movement and gradient, decay left out; NaN where nothing moved."""
        seen = [one for one in self.directions.values() if one.movement * one.gradient]
        size = math.sqrt(sum(one.gradient**2 for one in seen))
        size *= math.sqrt(sum(one.movement**2 for one in seen))
        return sum(one.own_slope for one in seen) / size if size else math.nan

    def climbing(self) -> list[str]:
        """Return the parameters that moved along their gradient, or became NaN."""
        return [name for name, one in self.directions.items()
                if one.movement * one.gradient and not within(one.own_slope, 0.0)]  # fmt: skip

    def climbs(self) -> bool:
        """Return whether the step raises the loss, by what holds most of the squared gradient."""
        whole = sum(one.gradient**2 for one in self.directions.values())
        along = sum(self.directions[name].gradient ** 2 for name in self.climbing())
        cosine = self.cosine()
        return not math.isnan(cosine) and cosine > 0 and not within(along, whole / 2)


def direction_of(parameter: Any, before: Tensor, rate: float, weight_decay: float) -> Direction:
    """Return how a parameter moved, from a sample of its elements scaled up to all of them."""
    old, gradient = sample(before).double(), sample(parameter.grad).double()
    movement = sample(parameter).double() - old
    scale = parameter.numel() / max(1, len(old))
    return Direction(
        slope=float(movement @ gradient) * scale,
        gradient=float(gradient.norm()) * math.sqrt(scale),
        movement=float(movement.norm()) * math.sqrt(scale),
        by_decay=-rate * weight_decay * float(old @ gradient) * scale,
    )
