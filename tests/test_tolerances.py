"""Bounds that are derived: what is said of their origin is computed here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainsanity.maths.tolerances import MARGIN
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
