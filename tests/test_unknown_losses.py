"""Losses that nobody knows are judged by the laws: green if healthy, red with a factor planted."""

from __future__ import annotations

import pytest

from fixtures.accumulation import undivided
from fixtures.unknown_losses import LOSSES, STEPS
from trainsanity import PipelineSpec
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

LAWS = {"loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum", "loss.rows_in_any_order",
        "loss.adds_up", "gradient.not_zero"}  # fmt: skip

WARNED = {"loss.formula_is_known", "loss.adds_up"}
"""What a custom loss is told with, until it is declared."""


def judged(build, *select):
    spec = PipelineSpec(build.__name__, build)
    return spec.visit(lambda pipeline: run(pipeline, registry().select(select)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_healthy_loss_is_green_and_every_law_reaches_a_verdict(name):
    report = judged(LOSSES[name])
    by_name = {result.check.name: result for result in report.results}
    assert report.exit_code() == 0, [str(r) for r in report.results if r.status is Status.FAIL]
    assert {n for n, r in by_name.items() if r.status is Status.WARNING} <= WARNED
    for law in LAWS:
        assert by_name[law].status in (Status.PASS, Status.WARNING), (law, by_name[law].reason)


@pytest.mark.parametrize("name", LOSSES)
def test_a_forgotten_division_is_red(name):
    report = judged(lambda: undivided(LOSSES[name]()), "loss", "gradient")
    failed = [result for result in report.results if result.status is Status.FAIL]
    assert report.exit_code() == 1
    assert {result.check.name for result in failed} <= {
        "loss.logged_is_a_mean",
        "gradient.step_is_the_weighted_sum",
    }
    for result in failed:
        for finding in result.findings:
            assert finding.factor == pytest.approx(STEPS, rel=1e-3)
            assert "gradient_accumulation_steps" in finding.cause
