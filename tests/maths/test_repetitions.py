"""Ratios of times, their noise, and trends."""

from __future__ import annotations

import math

import numpy
import pytest

from trainsanity.maths.device_peaks import peak_of
from trainsanity.maths.repetitions import WORTH, Ratio, ratio_of, trend


def noisy(mean, count, seed, share=0.02):
    return (mean * numpy.random.default_rng(seed).normal(1, share, count)).tolist()


def test_a_ratio_is_found_within_its_noise():
    ratio = ratio_of(noisy(1.0, 9, 0), noisy(0.6, 9, 1), noisy(1.0, 9, 2))
    assert abs(ratio.value - 0.6) < ratio.noise < 0.1
    assert ratio.worth


def test_equal_ways_are_hardly_ever_called_quicker():
    """By four standard errors, and by the share that a gain has to have."""
    found = [
        ratio_of(*(noisy(1.0, 9, 3 * seed + k, 0.05) for k in range(3))).worth
        for seed in range(500)
    ]
    assert sum(found) == 0


def test_what_drifts_is_no_gain():
    """Each round takes 10 % longer than the one before: the other way lies between two own."""
    rounds = [1.1**k for k in range(9)]
    ratio = ratio_of(rounds, [r * 1.05 for r in rounds], [r * 1.1 for r in rounds])
    assert ratio.value == pytest.approx(1.0, abs=1e-9)
    assert ratio.noise >= 0.1 - 1e-9  # the run's own way differs by that much from itself
    assert not ratio.worth


@pytest.mark.parametrize(
    ("value", "noise", "worth"),
    [
        (1 - WORTH - 0.011, 0.01, True),
        (1 - WORTH - 0.009, 0.01, False),
        (0.5, 0.6, False),
        (math.nan, 0.0, False),
    ],
)
def test_a_gain_counts_beyond_noise_and_worth(value, noise, worth):
    assert Ratio(value, noise, 9).worth is worth


def test_the_share_of_a_step_scales_gain_and_noise():
    whole = Ratio(0.5, 0.1, 9).of_step(0.2)
    assert (whole.value, whole.noise) == (pytest.approx(0.9), pytest.approx(0.02))


def test_trend_is_kendalls():
    """Against scipy's statistic where it is installed, and at its ends without it."""
    rising = list(range(24))
    pairs = 24 * 23 / 2
    assert trend(rising) == pytest.approx(pairs / math.sqrt(24 * 23 * 53 / 18))
    assert trend(rising[::-1]) == -trend(rising)
    assert trend([1.0] * 24) == 0
    assert trend([1.0]) == 0
    random = [trend(numpy.random.default_rng(seed).random(24).tolist()) for seed in range(400)]
    assert numpy.std(random) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("device", "half", "tf32", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", True, False, 989.4e12),
        ("NVIDIA H100 PCIe", True, False, 756.5e12),
        ("NVIDIA A100-SXM4-80GB", False, True, 156e12),
        ("Tesla T4", False, True, 8.1e12),
        ("NVIDIA L40S", True, False, 362e12),
        ("NVIDIA GeForce of tomorrow", True, False, None),
    ],
)
def test_the_peak_of_a_device(device, half, tf32, peak):
    assert peak_of(device, half=half, tf32=tf32) == peak
