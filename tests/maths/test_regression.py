"""What a gradient is made of, found again from made-up parts."""

from __future__ import annotations

import math

import pytest
import torch

from trainsanity.maths.regression import decompose, regress

# A generator of their own: a test that seeds torch's would draw the first of these again.
GENERATOR = torch.Generator().manual_seed(0)
*PARTS, OTHER = torch.randn(5, 5, 7, dtype=torch.float64, generator=GENERATOR)


def test_slope_and_cosine():
    slope, cosine = regress(3 * PARTS[0], PARTS[0])
    assert (slope, cosine) == (pytest.approx(3), pytest.approx(1))


@pytest.mark.parametrize(
    ("observed", "reference", "expected"),
    [(0, 0, (1.0, 1.0)), (0, 1, (0.0, 0.0)), (1, 0, (0.0, 0.0))],
)
def test_zeros_equal_zeros_and_nothing_else(observed, reference, expected):
    assert regress(observed * PARTS[0], reference * PARTS[1]) == expected


def test_not_a_number_has_no_slope():
    slope, cosine = regress(PARTS[0] * torch.nan, PARTS[0])
    assert math.isnan(slope)
    assert math.isnan(cosine)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0, 0, 0, 1], [1, 2, 1, 0.5]])
def test_the_weights_of_a_sum_are_found(weights):
    total = sum(weight * part for weight, part in zip(weights, PARTS, strict=True))
    found, cosine = decompose(total, PARTS)
    assert found == pytest.approx(weights, abs=1e-9)
    assert cosine == pytest.approx(1)


def test_something_else_in_the_sum_shows_in_the_cosine():
    _, cosine = decompose(sum(PARTS) + 2 * OTHER, PARTS)
    assert cosine < 0.99


def test_equal_parts_share_their_weight():
    found, cosine = decompose(2 * PARTS[0], [PARTS[0], PARTS[0]])
    assert found == pytest.approx([1, 1])
    assert cosine == pytest.approx(1)


def test_a_gradient_of_zero_has_no_direction():
    assert decompose(torch.zeros(5, 7), PARTS) == ([0, 0, 0, 0], 0.0)
