"""Objectives that other packages bring: refused, chosen first, and broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from fixtures.faults import healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import objective_of
from trainsanity.errors import UsageError
from trainsanity.objectives import registry as objectives
from trainsanity.objectives.base import UNKNOWN, Objective
from trainsanity.objectives.classification import SingleLabel
from trainsanity.pipeline import Pipeline
from trainsanity.types import Status

CHEAP = {"rows": 40, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


@pytest.fixture
def register(monkeypatch):
    """Register objectives as an entry point does, for one test."""
    objective_of(Pipeline(object()))  # the built-in ones are loaded
    monkeypatch.setattr(objectives, "_objectives", dict(objectives._objectives))
    return objectives.objective


def named(name, base=Objective, **members):
    return dataclass(frozen=True)(type("Acme", (base,), {"name": name, **members}))


def test_something_else_than_an_objective_is_refused(register):
    for wrong in (object, Objective(), "acme"):
        with pytest.raises(UsageError, match=r"is no subclass of trainsanity\.objectives\.base"):
            register(wrong)


def test_a_name_that_says_nothing_is_refused(register):
    with pytest.raises(UsageError, match=f"the name '{UNKNOWN}' of objective Acme says nothing"):
        register(named(UNKNOWN))


def test_a_name_that_is_taken_is_refused(register):
    name = SingleLabel.name
    with pytest.raises(UsageError, match=f"the name '{name}' of objective Acme is the name of"):
        register(named(name))
    register(named("acme"))
    with pytest.raises(UsageError, match="is the name of Acme, too"):
        register(named("acme"))


def matching(cls, pipeline):
    return True


def test_one_of_another_package_is_chosen_first(register):
    trainer = healthy(**CHEAP)
    assert objective_of(Pipeline.from_trainer(trainer)).name == SingleLabel.name
    acme = register(named("acme", SingleLabel, matches=classmethod(matching)))
    assert type(objective_of(Pipeline.from_trainer(trainer))) is acme


def test_one_that_does_not_match_leaves_the_choice_to_the_others(register):
    register(named("acme", SingleLabel, matches=classmethod(lambda cls, pipeline: False)))
    assert objective_of(Pipeline.from_trainer(healthy(**CHEAP))).name == SingleLabel.name


@dataclass(frozen=True)
class Formula(SingleLabel):
    """Its reference loss raises."""

    name: ClassVar[str] = "acme_formula"

    @classmethod
    def matches(cls, pipeline):
        return True

    def item_losses(self, z, y):
        raise ZeroDivisionError("the formula of acme")


def statuses(report):
    return {result.check.name: result for result in report.results}


def test_a_formula_that_raises_is_an_error_of_the_checks_that_need_it(register):
    register(Formula)
    names = ["loss.matches_reference", "loss.finite", "gradient.finite", "TS701", "TS703"]
    pipeline = Pipeline.from_trainer(healthy(**CHEAP))
    report = statuses(run(pipeline, registry().select(names)))
    broken = report.pop("loss.matches_reference")
    assert broken.status is Status.ERROR
    assert "ZeroDivisionError: the formula of acme" in broken.reason
    assert {result.status for result in report.values()} == {Status.PASS}


def test_a_match_that_raises_is_an_error_of_the_checks_that_ask(register):
    def matches(cls, pipeline):
        raise RuntimeError("acme looks at an attribute that is not there")

    register(named("acme", SingleLabel, matches=classmethod(matches)))
    names = ["loss.initial_is_uninformed", "dataset.no_duplicates", "schedule.peak_is_reached"]
    pipeline = Pipeline.from_trainer(healthy(**CHEAP))
    run_report = run(pipeline, registry().select(names))
    report = statuses(run_report)
    broken = report.pop("loss.initial_is_uninformed")
    assert broken.status in (Status.ERROR, Status.BLOCKED)
    assert {result.status for result in report.values()} == {Status.PASS}
    assert run_report.facts["task"] == UNKNOWN
    assert run_report.exit_code() == 3
