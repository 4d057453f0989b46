"""Whether chance explains that more of one group are hits than of another."""

from __future__ import annotations

import itertools

import numpy
import pytest

from trainsanity.maths.chance import ONCE_IN_A_THOUSAND, chance_of_as_many, chance_of_gap


@pytest.mark.parametrize("found", range(5))
def test_it_is_the_share_of_all_ways_to_deal_out(found):
    of, among, hits = 4, 6, 4
    dealt = list(itertools.combinations(range(of + among), of))
    share = sum(sum(row < hits for row in one) >= found for one in dealt) / len(dealt)
    assert chance_of_as_many(found, of, hits - found, among) == pytest.approx(share)


def test_large_numbers():
    assert chance_of_as_many(0, 10_000, 5, 1_000_000) == pytest.approx(1)
    assert chance_of_as_many(60, 10_000, 6_000, 1_000_000) > 0.4
    assert chance_of_as_many(120, 10_000, 6_000, 1_000_000) < ONCE_IN_A_THOUSAND


def test_a_gap_is_as_likely_as_among_samples_dealt_anew():
    """Against the share of 4000 deals of the same values whose gap is as large."""
    draw = numpy.random.default_rng(0)
    first, second = numpy.sort(draw.normal(0, 1, 60)), numpy.sort(draw.normal(0.3, 1, 25))

    def gap(a, b):
        both = numpy.concatenate([a, b])
        below = [(one[None] <= both[:, None]).mean(1) for one in (a, b)]
        return abs(below[0] - below[1]).max()

    pooled, seen = numpy.concatenate([first, second]), gap(first, second)
    dealt = [gap(*numpy.split(draw.permutation(pooled), [60])) for _ in range(4000)]
    share = sum(one >= seen - 1e-9 for one in dealt) / len(dealt)
    # Two standard errors of the share, and what the limit for many values is off at 25.
    assert 0.01 < share < 0.99
    assert abs(chance_of_gap(first, second) - share) < 2 * (share / 4000) ** 0.5 + 0.05
    assert chance_of_gap(first, first) == 1
    assert chance_of_gap(first, first + 100) < ONCE_IN_A_THOUSAND
