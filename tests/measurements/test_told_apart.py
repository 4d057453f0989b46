"""Quantities that are equal are told apart by other numbers of the same step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fixtures.accumulation import divides, undivided
from fixtures.faults import subclassed
from trainsanity.engine.diagnosis import diagnose
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline
from trainsanity.types import Result, Status

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import cli_factories

STEPS = "gradient_accumulation_steps = 3"
ROWS = "per_device_train_batch_size = 3"
LABELS = "num_labels = 3"

FORMULAS = ("loss.matches_reference", "gradient.head_closed_form")
LAWS = ("loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum")


def trainer(rows):
    """Three micro-batches of so many rows, with three labels."""
    made = cli_factories._trainer(cli_factories._rows(12 * rows), batch_size=rows)
    made.args.gradient_accumulation_steps = 3
    return divides(made)


def three_times(made):
    """Multiply what compute_loss returns."""
    compute_loss = type(made).compute_loss

    def tripled(self, *args, **kwargs):
        said = compute_loss(self, *args, **kwargs)
        return (3 * said[0], *said[1:]) if isinstance(said, tuple) else 3 * said

    return subclassed(made, compute_loss=tripled)


def found(made, *names) -> list[Result]:
    results = run(Pipeline.from_trainer(made), registry().select(names)).results
    assert {result.status for result in results} <= {Status.FAIL, Status.BLOCKED}
    assert all(result.factor == pytest.approx(3, rel=1e-3) for result in results)
    return list(results)


def test_what_is_between_the_micro_batches_is_not_inside_of_one() -> None:
    results = found(undivided(trainer(3)), *FORMULAS, *LAWS)
    for result in results:
        (finding,) = result.findings
        assert finding.candidates == (STEPS,)
        assert finding.cause.startswith(f"3.00 is {STEPS}")
        assert ROWS not in finding.cause
        if result.check.name in FORMULAS:
            assert finding.tested.startswith(f"{ROWS} and {LABELS} are ruled out: the ")
            assert "micro-batches" in finding.tested
            assert finding.as_dict()["tested"] == finding.tested
        else:  # where a factor inside of one cancels, nothing else is named
            assert "tested" not in finding.as_dict()
    (first,) = results[0].findings
    assert diagnose(results[:1]).confidence == f"good: only {STEPS} fits; {first.tested}"


def test_what_nothing_tells_apart_stays_open() -> None:
    # Three times the mean of three rows would be their sum, which is known by name.
    results = found(three_times(trainer(2)), "loss.matches_reference")
    (finding,) = results[0].findings
    assert (finding.candidates, finding.tested) == ((STEPS, LABELS), None)
    assert diagnose(results).confidence == "open between 2 that fit equally well"
