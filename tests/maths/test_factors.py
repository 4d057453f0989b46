"""Factors are named from the run's numbers, and two that fit equally are both named."""

from __future__ import annotations

import math

import pytest

from trainsanity.maths.factors import Factor, explained, fitting, name_factor, tell_apart

RUN = {"gradient_accumulation_steps": 6, "world_size": 2, "per_device_train_batch_size": 4}


@pytest.mark.parametrize(
    ("factor", "names"),
    [
        (12.0, ["gradient_accumulation_steps x world_size = 6 x 2"]),
        (6.0, ["gradient_accumulation_steps = 6"]),
        (2.0, ["world_size = 2"]),
        (4.0, ["per_device_train_batch_size = 4"]),
        (1 / 6, ["1 / gradient_accumulation_steps = 1 / 6"]),
        (1 / 12, ["1 / (gradient_accumulation_steps x world_size) = 1 / (6 x 2)"]),
        (5.0, []),
        (1.0, []),
        (float("nan"), []),
    ],
)
def test_names(factor, names):
    assert name_factor(factor, RUN, 1e-3) == names


@pytest.mark.parametrize(
    ("accumulation", "world", "name"),
    [(12, 1, "gradient_accumulation_steps = 12"), (1, 12, "world_size = 12")],
)
def test_what_is_1_is_not_named(accumulation, world, name):
    run = {"gradient_accumulation_steps": accumulation, "world_size": world}
    assert name_factor(12.0, run, 1e-3) == [name]
    assert name_factor(1 / 12, run, 1e-3) == [f"1 / {name.replace('= ', '= 1 / ')}"]


def test_two_that_fit_equally_are_both_named():
    run = {"gradient_accumulation_steps": 4, "world_size": 1, "per_device_train_batch_size": 4}
    assert len(name_factor(4.0, run, 1e-3)) == 2


def test_the_tolerance_is_relative():
    assert name_factor(12.011, RUN, 1e-3)
    assert not name_factor(12.013, RUN, 1e-3)


@pytest.mark.parametrize(
    ("factor", "facts", "name"),
    [
        (280.0, {"num_labels": 280}, "num_labels = 280"),
        (1 / 280, {"num_labels": 280}, "1 / num_labels = 1 / 280"),
        (320.0, {"sequence_length": 320}, "sequence_length = 320"),
        (
            196.35,
            {"max_grad_norm": 1.0, "grad_norm": 196.35},
            "grad_norm / max_grad_norm = 196.35 / 1",
        ),
    ],
)
def test_other_quantities_of_the_run(factor, facts, name):
    assert name_factor(factor, facts, 1e-3) == [name]
    assert name_factor(factor, {}, 1e-3) == []


@pytest.mark.parametrize(
    ("factor", "names"),
    [
        (2, ["tp_size = 2"]),
        (4, ["data-parallel processes = 4"]),
        (8, ["world_size = 8"]),
        (6, ["gradient_accumulation_steps x tp_size = 3 x 2"]),
        (12, ["gradient_accumulation_steps x data-parallel processes = 3 x 4"]),
    ],
)
def test_a_factor_of_a_mesh_is_named_by_its_dimension(factor, names):
    mesh = {"gradient_accumulation_steps": 3, "world_size": 8, "tp_size": 2}
    assert name_factor(factor, mesh, 1e-3) == names


def test_dimensions_of_one_size_are_both_named():
    mesh = {"gradient_accumulation_steps": 3, "world_size": 4, "tp_size": 2}
    assert name_factor(2, mesh, 1e-3) == ["tp_size = 2", "data-parallel processes = 2"]


def test_a_range_names_all_that_lie_in_it():
    assert fitting(3, 13, RUN) == [
        "gradient_accumulation_steps = 6",
        "gradient_accumulation_steps x world_size = 6 x 2",
        "per_device_train_batch_size = 4",
    ]


def test_a_factor_is_explained_by_its_names_and_what_tells_them_apart():
    assert explained(12.0, ["num_labels = 12"]) == "12.00 is num_labels = 12"
    assert explained(12.0, ["num_labels = 12", "sequence_length = 12"]) == (
        "12.00 is num_labels = 12 (or sequence_length = 12: a step with another num_labels tells "
        "which)"
    )


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("gradient_accumulation_steps x world_size = 4 x 2", "gradient_accumulation_steps"),
        ("1 / (grad_norm / max_grad_norm) = 1 / (7 / 1)", "max_grad_norm"),
        ("1 / num_labels = 1 / 7", "num_labels"),
    ],
)
def test_the_setting_that_can_be_changed_is_named(name, setting):
    assert tell_apart([name]) == f"a step with another {setting} tells which"


def test_a_factor_is_known_as_well_as_what_it_is_computed_from():
    assert Factor.of(12.05, 1.0, 0.0) == Factor(12.05, 1e-3)
    assert Factor.of(12.05, 1.0, 0.0).names(RUN) == []
    # A difference of 0.01 is arithmetic: the factor is known to one percent.
    assert Factor.of(12.05, 1.0, 0.01).names(RUN) == [
        "gradient_accumulation_steps x world_size = 6 x 2"
    ]
    nothing = Factor.of(1.0, 0.0, 0.1)
    assert math.isnan(nothing.value)
    assert nothing.names(RUN) == []
