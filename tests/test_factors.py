"""Factors are named from the run's numbers, and two that fit equally are both named."""

from __future__ import annotations

import pytest

from trainsanity.factors import name_factor

RUN = {"gradient_accumulation_steps": 6, "world_size": 2, "per_device_train_batch_size": 4}


@pytest.mark.parametrize(
    ("factor", "names"),
    [
        (12.0, ["gradient_accumulation_steps x world_size = 6 x 2"]),
        (6.0, ["gradient_accumulation_steps = 6"]),
        (2.0, ["world_size = 2"]),
        (4.0, ["per_device_train_batch_size = 4"]),
        (1 / 6, ["1 / (gradient_accumulation_steps) = 1 / (6)"]),
        (1 / 12, ["1 / (gradient_accumulation_steps x world_size) = 1 / (6 x 2)"]),
        (5.0, []),
        (1.0, []),
        (float("nan"), []),
    ],
)
def test_names(factor, names):
    assert name_factor(factor, RUN, 1e-3) == names


def test_one_process_is_told_once_and_by_the_wider_name():
    run = {"gradient_accumulation_steps": 12, "world_size": 1, "per_device_train_batch_size": 4}
    assert name_factor(12.0, run, 1e-3) == ["gradient_accumulation_steps x world_size = 12 x 1"]


def test_two_that_fit_equally_are_both_named():
    run = {"gradient_accumulation_steps": 4, "world_size": 1, "per_device_train_batch_size": 4}
    assert len(name_factor(4.0, run, 1e-3)) == 2


def test_the_tolerance_is_relative():
    assert name_factor(12.011, RUN, 1e-3)
    assert not name_factor(12.013, RUN, 1e-3)
