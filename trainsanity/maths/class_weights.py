"""How weights of classes go with the classes' frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Relation = Literal["with rarity", "with frequency", "of other classes", "other"]

CLOSE = 0.1
"""Largest residual, in logarithms, of weights that were computed from counts: a tenth, for counts
of a set that was split or filtered afterwards."""

UNEVEN = math.log(1.2)
"""Spread of the logarithms of counts below which classes are as good as balanced."""

EXACT = 1e-3
"""Largest residual of weights that were computed from these very counts, and written with four
digits."""

DIGITS = 2
"""Digits of numbers that somebody thought of."""

FEW = 3
"""Classes with which a line through points means something: two points always have one."""


@dataclass(frozen=True)
class Line:
    """A line through points, by least squares: its slope, and the largest residual."""

    slope: float
    residual: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """Return the line through points of which not all have the same ``x``."""
        middle, height = sum(x) / len(x), sum(y) / len(y)
        slope = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum(
            (a - middle) ** 2 for a in x
        )
        return cls(
            slope,
            max(abs(b - height - slope * (a - middle)) for a, b in zip(x, y, strict=True)),
        )


def chosen(weights: Sequence[float], counts: Sequence[int]) -> bool:
    """Return whether weights are round numbers, and no power of the counts to their last digit.

    Costs such as 1, 2 and 5 are near some power of three or four counts by chance.
    """
    if any(
        abs(weight - float(f"{weight:.{DIGITS}g}")) > EXACT * EXACT * weight for weight in weights
    ):
        return False
    own = Line.through([math.log(n) for n in counts], [math.log(w) for w in weights])
    return own.residual > EXACT or abs(own.slope - round(2 * own.slope) / 2) > EXACT


def relation(weights: Sequence[float], counts: Sequence[int]) -> Relation:
    """Return how weights depend on counts, of which they are a power if anything.

    ``1 / n``, ``N / (C n)`` and ``1 / sqrt(n)`` are straight lines in logarithms. Weights that are
    one only after both were sorted belong to other classes.

    Args:
        weights: of each class, positive.
        counts: rows of each class, positive.
    """
    x, y = [math.log(n) for n in counts], [math.log(w) for w in weights]
    if max(x) - min(x) < UNEVEN or max(y) - min(y) < UNEVEN:
        return "other"
    own = Line.through(x, y)
    if own.residual <= CLOSE and own.slope < 0:
        return "with rarity"
    exact = abs(own.slope - 1) <= CLOSE
    if own.residual <= CLOSE and (exact if len(x) < FEW else own.slope > 0):
        return "with frequency"
    if len(x) < FEW:
        return "other"
    dealt = Line.through(sorted(x), sorted(y, reverse=True))
    if dealt.residual <= CLOSE and own.residual > FEW * CLOSE:
        return "of other classes"
    return "other"
