"""What chance explains."""

from __future__ import annotations

import math

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


def _log_ways(of: int, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
