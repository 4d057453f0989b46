"""How far two medians of a noisy clock are apart by chance."""

from __future__ import annotations

import random
import statistics

import pytest

from trainsanity.measurements.padding import REPEATS, noise


@pytest.mark.parametrize(("repeats", "at_most"), [(REPEATS, 0.1), (20, 0.005), (60, 0.005)])
def test_equal_widths_are_seldom_beyond_the_noise(repeats, at_most):
    rng = random.Random(0)
    beyond = 0
    for _ in range(2000):
        one, again, own = ([rng.gauss(0.01, 0.002) for _ in range(repeats)] for _ in range(3))
        ratio = statistics.median(own) / statistics.median(one)
        beyond += ratio > 1 + noise(one, again, own)
    # Three values know little of their own spread; 4 standard errors of many are hardly exceeded.
    assert beyond / 2000 < at_most


def test_a_width_that_costs_half_as_much_again_is_beyond():
    rng = random.Random(0)
    one, again = ([rng.gauss(0.01, 0.001) for _ in range(20)] for _ in range(2))
    own = [rng.gauss(0.015, 0.001) for _ in range(20)]
    ratio = statistics.median(own) / statistics.median(one)
    assert ratio > 1 + noise(one, again, own)
