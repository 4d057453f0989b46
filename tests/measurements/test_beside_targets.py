"""Targets beside the numbers of their rows: equal, a straight function, and neither."""

from __future__ import annotations

import pytest
import torch

from trainsanity.checks.dataset.inputs_hold_no_target import (
    ENOUGH,
    SEVERAL,
    STRAIGHT,
    inputs_hold_no_target,
)
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.batches.beside_targets import Beside
from trainsanity.types import Finding, Severity, Skip

EPS = torch.finfo(torch.float32).eps


def severities(targets, column, width=3):
    noise = torch.randn(len(targets), width, generator=torch.Generator().manual_seed(0))
    given = torch.cat([noise, column[:, None]], 1) if width else column[:, None]
    found = inputs_hold_no_target([Beside(targets, {"x": given})])
    return [one.severity for one in found if isinstance(one, Finding)]


def numbers(count):
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("ulps", "red"), [(0.9 * MARGIN, True), (2 * MARGIN, False)])
def test_equal_to_the_rounding_of_float32(ulps, red):
    targets = numbers(ENOUGH + 4)
    moved = targets + ulps * EPS * targets.abs().max()
    assert severities(targets, moved) == [Severity.FAILURE] * red


@pytest.mark.parametrize(("count", "red"), [(ENOUGH, True), (ENOUGH - 1, False)])
def test_few_targets_may_be_equal_by_chance(count, red):
    if not red:
        with pytest.raises(Skip, match="fewer than"):
            severities(numbers(count), numbers(count))
        return
    assert severities(numbers(count), numbers(count)) == [Severity.FAILURE]


@pytest.mark.parametrize(("left", "told"), [(0.5 * STRAIGHT, True), (2 * STRAIGHT, False)])
def test_a_scaled_column_is_a_warning(left, told):
    targets = numbers(SEVERAL)
    noise = torch.randn(SEVERAL, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    centred = targets.double() - targets.double().mean()
    # What is left beside the line is the part of the noise across it.
    noise -= noise.mean() + centred * (noise @ centred) / centred.square().sum()
    column = targets.double() + left * noise * centred.norm() / noise.norm()
    assert severities(targets.double(), 5 * column - 2) == [Severity.WARNING] * told


def test_few_targets_or_one_number_a_row_make_no_line():
    assert severities(numbers(SEVERAL - 1), 5 * numbers(SEVERAL - 1) - 2) == []
    assert severities(numbers(SEVERAL), 5 * numbers(SEVERAL) - 2, width=0) == []


def test_coarse_numbers_have_to_be_equal():
    targets = numbers(8).to(torch.bfloat16)
    assert severities(targets, targets) == [Severity.FAILURE]
    assert severities(targets, targets * 1.01) == []
