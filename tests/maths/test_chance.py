"""Whether chance explains that more of one group are hits than of another."""

from __future__ import annotations

import itertools

import pytest

from trainsanity.maths.chance import ONCE_IN_A_THOUSAND, chance_of_as_many


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
