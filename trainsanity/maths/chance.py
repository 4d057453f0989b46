"""What chance explains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONCE_IN_A_THOUSAND = 1e-3
"""Below it a difference between two shares is called one. A convention: a checked run is one of
many, and each asks this once."""


def chance_of_as_many(found: int, of: int, others: int, among: int) -> float:
    """Return how likely as many or more of what two groups have together lie in the first.

    Fisher's exact test with one side: ``found + others`` hits, dealt out to ``of + among`` rows.

    Args:
        found: hits in the first group.
        of: its size.
        others: hits in the second group.
        among: its size.
    """
    hits, rows = found + others, of + among
    whole = _log_ways(rows, of)
    total = 0.0
    for k in range(found, min(hits, of) + 1):
        if of - k > rows - hits:
            continue
        term = math.exp(_log_ways(hits, k) + _log_ways(rows - hits, of - k) - whole)
        total += term
        # Beyond the mean the terms fall, each faster than the one before.
        if term < 1e-12 * total:
            break
    return min(1.0, total)


def chance_of_gap(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return how likely two samples of one population are as far apart as these, or further.

    The two-sided test of Kolmogorov and Smirnov, by its limit for many values; with equal values
    and with few it says more than there is.

    Args:
        first: sorted values.
        second: sorted values.
    """
    import numpy

    both = numpy.concatenate([first, second])
    shares = [numpy.searchsorted(one, both, side="right") / len(one) for one in (first, second)]
    gap = float(numpy.abs(shares[0] - shares[1]).max())
    size = len(first) * len(second) / (len(first) + len(second))
    # The correction of Stephens for few values.
    root = math.sqrt(size) + 0.12 + 0.11 / math.sqrt(size)
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * root * gap) ** 2) for k in range(1, 101))
    # For small gaps the sum does not settle: there the likelihood is 1.
    return min(1.0, max(0.0, 2 * sum(terms))) if root * gap > 0.2 else 1.0


def _log_ways(of: int, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
