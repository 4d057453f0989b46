"""The division by the accumulation steps forgotten, whatever the objective: red, exact, named."""

from __future__ import annotations

import pytest

from fixtures.accumulation import BUILDERS, undivided
from fixtures.outputs import BUILDERS as OF_OUTPUTS
from fixtures.outputs import multiple_choice
from trainsanity import PipelineSpec
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

LAWS = ("loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum", "loss.matches_reference")
NAME = "gradient_accumulation_steps"

ALL = {**BUILDERS, **OF_OUTPUTS, "multiple_choice": multiple_choice}

FURTHER = [pytest.param(name, marks=pytest.mark.matrix) for name in ALL if name not in BUILDERS]
"""Judged in the matrix alone, to keep the gate short."""


def judged(name, steps, *, forgets):
    def build():
        trainer = ALL[name](steps)
        return undivided(trainer) if forgets else trainer

    return PipelineSpec(name, build).visit(lambda pipeline: run(pipeline, registry().select(LAWS)))


def factors(report):
    return [f for result in report.results for f in result.findings if f.factor is not None]


@pytest.mark.parametrize(
    "steps", [pytest.param(4, id="4"), pytest.param(12, id="12", marks=pytest.mark.matrix)]
)
@pytest.mark.parametrize("name", [*BUILDERS, *FURTHER])
def test_a_forgotten_division_is_red_and_named(name, steps):
    report = judged(name, steps, forgets=True)
    assert report.exit_code() == 1
    found = factors(report)
    assert found
    for finding in found:
        assert finding.factor == pytest.approx(steps, rel=1e-3)
        # The first name is the simplest one; other quantities of the run may fit as well.
        assert NAME in finding.candidates[0]
        assert NAME in finding.cause


@pytest.mark.parametrize("name", [*BUILDERS, *FURTHER])
def test_the_same_trainer_that_divides_is_green(name):
    report = judged(name, 4, forgets=False)
    by_name = {result.check.name: result for result in report.results}
    assert report.exit_code() == 0
    assert by_name["gradient.step_is_the_weighted_sum"].status is Status.PASS
    assert by_name["gradient.step_is_the_weighted_sum"].observed == pytest.approx(1, abs=1e-3)
