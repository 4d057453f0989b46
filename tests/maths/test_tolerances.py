"""Bounds that are derived: what is said of their origin is computed here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainsanity.maths.tolerances import MARGIN, Difference, worst
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
