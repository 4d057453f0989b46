"""Times that are compared: ratios of pairs, and how far they are off by chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainsanity.maths.tolerances import STANDARD_ERRORS

WORTH = 0.05
"""Share of a step below which a gain is not told as a warning: issue 32 sets it, as the least that
is worth a change of a run."""


@dataclass(frozen=True)
class Ratio:
    """Seconds of one way over seconds of another, with what chance makes of it.

    Attributes:
        value: the median over the rounds.
        noise: what it is off by chance at the most.
        rounds: how many were taken.
    """

    value: float
    noise: float
    rounds: int

    def of_step(self, share: float) -> Ratio:
        """Return what it makes of a step of which this part is that share."""
        return Ratio(1 - share * (1 - self.value), share * self.noise, self.rounds)

    @property
    def worth(self) -> bool:
        """Return whether the gain is above :data:`WORTH`, noise included; never for a NaN."""
        return self.value + self.noise < 1 - WORTH

    def __str__(self) -> str:
        """Return the ratio with its noise, as "0.61 ± 0.02 x"."""
        return f"{self.value:.2f} ± {self.noise:.1g} x"


def ratio_of(before: Sequence[float], other: Sequence[float], after: Sequence[float]) -> Ratio:
    """Return the ratio of another way to the run's own, which was timed before and after it.

    A round is own, other, own: what drifts, the clock of a processor or a neighbour on the machine,
    moves both sides of a ratio.  The noise is the larger of two estimates.  One is how far the two
    times of the run's own way differ, over the rounds; the other is :data:`STANDARD_ERRORS`
    standard errors of the median.

    Args:
        before: seconds of the run's own way.
        other: seconds of the other.
        after: seconds of the run's own way, once more.
    """
    ratios = [2 * b / (a + c) for a, b, c in zip(before, other, after, strict=True)]
    null = [c / a for a, c in zip(before, after, strict=True)]
    noise = max(abs(statistics.median(null) - 1), standard_error(ratios) * STANDARD_ERRORS)
    return Ratio(statistics.median(ratios), noise, len(ratios))


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a median.

    Of a median of n values that is sqrt(pi / 2 / n) times their standard deviation, which is 1.4826
    times their median absolute deviation (both for a normal spread).
    """
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    return 1.4826 * deviation * math.sqrt(math.pi / 2 / len(values))


def trend(values: Sequence[float]) -> float:
    """Return by how many standard deviations values rise in their order (Kendall's test).

    Of n values in random order the number of pairs that rise, less those that fall, has the mean 0
    and the variance n (n - 1) (2 n + 5) / 18.
    """
    n = len(values)
    if n < 2:
        return 0.0
    pairs = sum(
        (later > earlier) - (later < earlier)
        for k, earlier in enumerate(values)
        for later in values[k + 1 :]
    )
    return pairs / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
