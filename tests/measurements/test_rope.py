"""Rotary frequencies against values that are made up."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from trainsanity.measurements.model.rope import UNITS, _compared, rope
from trainsanity.types import Skip

EXPECTED = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64)


def compared(buffer, scaling_error=0.0):
    return _compared("rotary.inv_freq", buffer, EXPECTED, scaling_error)


def test_the_largest_relative_difference_counts():
    assert compared(EXPECTED.float()).error == 0
    off = torch.tensor([1.0, 0.5, 0.26, 0.0])
    assert compared(off).error == pytest.approx(0.04, rel=1e-6)
    assert compared(off, scaling_error=0.5).error == 0.5
    # Where nothing is to be rotated the difference itself counts.
    assert compared(torch.tensor([1.0, 0.5, 0.25, 0.125])).error == 0.125
    assert math.isnan(compared(EXPECTED.float() * math.nan, scaling_error=0.5).error)


def test_another_number_of_frequencies_is_beyond_any_rounding():
    for wrong in (EXPECTED[:3], EXPECTED[:1], torch.ones(8)):
        assert compared(wrong.float(), scaling_error=0.5).error == math.inf


def test_the_dtype_is_what_rounding_is_allowed_by():
    single = compared(EXPECTED.float())
    assert (single.allowed, single.dtype) == (UNITS * 2.0**-23, "float32")
    half = compared(EXPECTED.to(torch.bfloat16))
    assert (half.allowed, half.dtype) == (2.0**-7, "bfloat16")
    assert compared(EXPECTED).allowed == UNITS * 2.0**-23


class Rotary(torch.nn.Module):
    def __init__(self, **parameters):
        super().__init__()
        self.config = SimpleNamespace(rope_parameters=parameters)
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(4) / 4))


def test_a_formula_that_is_not_known_is_told_beside_one_that_is():
    plain, odd = Rotary(rope_theta=100.0), Rotary(rope_type="of tomorrow")

    def seen(*modules):
        return rope(SimpleNamespace(model=torch.nn.Sequential(*modules)))

    both = seen(plain, odd)
    assert [one.name for one in both.buffers] == ["0.inv_freq"]
    assert both.buffers[0].error < both.buffers[0].allowed
    assert both.unknown == ["1.inv_freq"]
    assert seen(plain).unknown == []
    with pytest.raises(Skip, match=r"no formula is known for 0\.inv_freq"):
        seen(odd)
    with pytest.raises(Skip, match="the model has no rotary positions"):
        seen(torch.nn.Linear(1, 1))
