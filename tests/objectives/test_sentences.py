"""sentence-transformers' losses confirm their formulas; mistakes and lost divisions are named."""

from __future__ import annotations

import pytest

pytest.importorskip("sentence_transformers")

from fixtures.accumulation import undivided
from fixtures.sentences import BUILDERS, WRONG
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

CHECK = "loss.outputs_give_the_loss"
LAWS = ("loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum")


def judged(trainer, *names):
    report = run(Pipeline.from_trainer(trainer), registry().select(names))
    return {result.check.name: result for result in report.results}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_formula_is_the_librarys_loss(name):
    found = judged(BUILDERS[name](4), CHECK, *LAWS)
    assert found[CHECK].observed == pytest.approx(found[CHECK].expected, rel=1e-5, abs=1e-6)
    assert {name: result.status for name, result in found.items()} == dict.fromkeys(
        found, Status.PASS
    )


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, several in WRONG.items() for words in several]
)
def test_a_mistake_is_told_by_its_name(name, words):
    found = judged(BUILDERS[name](2, WRONG[name][words]), CHECK)[CHECK]
    assert found.status is Status.FAIL, (found.reason, found.findings)
    assert words in found.findings[0].cause


def test_that_a_row_depends_on_the_others_is_what_in_batch_negatives_are() -> None:
    assert judged(BUILDERS["contrastive"](4), "loss.adds_up")["loss.adds_up"].status is Status.PASS


@pytest.mark.parametrize("name", BUILDERS)
def test_a_forgotten_division_is_red_and_exact(name):
    found = judged(undivided(BUILDERS[name](4)), *LAWS)
    assert found[LAWS[0]].status is Status.FAIL
    for result in found.values():
        for finding in result.findings:
            assert finding.factor == pytest.approx(4, rel=1e-3)
            assert "gradient_accumulation_steps" in finding.cause
