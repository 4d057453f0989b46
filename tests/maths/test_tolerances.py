"""Bounds that are derived: what is said of their origin is computed here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainsanity.maths.tolerances import (
    MARGIN,
    REDUCTIONS,
    Difference,
    logits_difference,
    most_noise,
    shaken,
    worst,
)
from trainsanity.measurements.model.head import same_direction


def chance(n: int) -> float:
    """That the largest of n normal roundings exceeds MARGIN times the largest of n others."""
    x = np.linspace(0, 12, 200_001)
    below = torch.erf(torch.from_numpy(x) / 2**0.5).numpy()
    density = n * below ** (n - 1) * np.sqrt(2 / np.pi) * np.exp(-(x**2) / 2)
    smaller = torch.erf(torch.from_numpy(x / MARGIN) / 2**0.5).numpy() ** n
    return float((density * smaller).sum() * x[1])


def test_the_margin_is_as_rare_as_it_says():
    # One number of each: the ratio of two normal numbers is Cauchy's, 2 / pi * atan(1 / MARGIN).
    assert chance(1) == pytest.approx(2 / np.pi * np.arctan(1 / MARGIN), rel=1e-6)
    assert chance(8) < 1e-3
    assert chance(24) < 2e-6
    assert chance(64) < 2e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("outputs", [2, 5, 280])
def test_rescaled_logits_keep_their_direction(dtype, outputs):
    generator = torch.Generator().manual_seed(outputs)
    made = torch.randn(2_000, outputs, generator=generator).to(dtype)
    scaled = ((made * 0.37) / 1.9).to(torch.float32)
    cosine = torch.nn.functional.cosine_similarity(made.float(), scaled, dim=-1)
    assert float(cosine.min()) >= same_direction(dtype)
    other = torch.nn.functional.cosine_similarity(made.float(), scaled.roll(1, 0), dim=-1)
    assert float(other.median()) < same_direction(dtype)


@pytest.mark.parametrize(
    ("greatest", "allowed", "explained"),
    [
        (0.5, 0.5, True),
        (0.51, 0.5, False),
        (0.0, 0.0, True),
        (math.nan, 0.5, False),
        (0.5, math.nan, False),
        (0.5, math.inf, False),
    ],
)
def test_a_difference_is_explained_up_to_its_bound(greatest, allowed, explained):
    assert Difference(greatest, allowed).explained is explained


def test_a_difference_in_words():
    assert str(Difference(0.12345, 1.2345e-5)) == (
        "greatest difference 0.123, up to 1.2e-05 allowed"
    )
    assert str(Difference(2.0, 0.5, "of the norm")) == (
        "greatest difference 2 of the norm, up to 0.5 allowed"
    )


def test_the_worst_is_the_furthest_beyond_its_own_bound():
    small, large = Difference(1e-3, 1e-6), Difference(0.5, 1.0)
    assert worst([large, small]) is small
    broken = Difference(math.nan, 1.0)
    assert worst([small, broken, large]) is broken
    assert worst([]) is None


def test_noise_that_a_fault_makes_lifts_no_bound():
    """A mean over the whole batch changes a row among copies of itself by a third of its size."""
    healthy = logits_difference(torch.float32, 1e-7, 1.0)
    ill = logits_difference(torch.float32, 0.37, 1.0)
    assert healthy == pytest.approx(1.3e-6)
    assert ill == MARGIN * REDUCTIONS
    assert most_noise(torch.float32, 1.0) == REDUCTIONS


def test_a_deep_model_on_a_gpu_is_within_the_bound_and_a_small_leak_is_not():
    """36 layers, a largest logit of 3.9: batches of 24 differ by 4.7e-5, a leak is 2.6e-4."""
    unit = shaken(torch.float32, 1.3e-6 * 3.9, 9_728, 3.9)
    bound = logits_difference(torch.float32, 0.0, 3.9, unit)
    assert 4.7e-5 < bound < 2.6e-4


def test_no_noise_is_asked_in_16_bits():
    """There a healthy batch of 24 differed by 0.103 where one of 4 differed by 0."""
    assert logits_difference(torch.bfloat16, 0.0, 3.9) > 0.103
    assert logits_difference(torch.bfloat16, 50.0, 3.9) == logits_difference(
        torch.bfloat16, 0.0, 3.9
    )


def test_the_roundings_of_a_pass_are_those_of_its_sums():
    assert shaken(torch.float32, 1e-7, 10_000, 1.0) == pytest.approx(1e-6)
    # Half of the digits, and no more.
    half = math.sqrt(torch.finfo(torch.float32).eps)
    assert MARGIN * shaken(torch.float32, 1.0, 10_000, 1.0) == pytest.approx(half)


def test_blocked_sums_round_as_the_fourth_root_of_their_length():
    """Torch's own float32 sums, of 64 to 16,384 products, against float64."""
    generator = torch.Generator().manual_seed(0)
    for longest in (64, 1_024, 16_384):
        one, other = torch.randn(2, 400, longest, generator=generator)
        exact = (one.double() * other.double()).sum(-1)
        off = ((one @ other.T).diagonal().double() - exact).std() / longest**0.5
        assert float(off) <= longest**0.25 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["noise", "size", "unit"])
def test_no_bound_comes_of_what_is_no_number(odd, place):
    numbers = {"noise": 1e-7, "size": 1.0, "unit": 1e-7, place: odd}
    assert not math.isfinite(logits_difference(torch.float32, **numbers))
    assert not math.isfinite(shaken(torch.float32, odd, 100, 1.0))
