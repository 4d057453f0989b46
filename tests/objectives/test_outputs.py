"""Formulas of outputs: a library's own loss confirms each, a mistake is told by its name."""

from __future__ import annotations

import pytest

from fixtures.outputs import BUILDERS, WRONG
from tests.test_not_a_number import wrongly_passed
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

CHECK = "loss.outputs_give_the_loss"


def judged(trainer, *names):
    report = run(Pipeline.from_trainer(trainer), registry().select(names or [CHECK]))
    return {result.check.name: result for result in report.results}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_formula_is_the_librarys_loss(name):
    found = judged(BUILDERS[name](2))[CHECK]
    assert found.status is Status.PASS, (found.reason, found.findings)
    assert found.observed == pytest.approx(found.expected, rel=1e-5)


def mistakes():
    """Yield each mistake; of each objective the first is judged in the gate."""
    for name, several in WRONG.items():
        for k, words in enumerate(several):
            yield pytest.param(name, words, marks=[pytest.mark.matrix] if k else [])


@pytest.mark.parametrize(("name", "words"), [*mistakes()])
def test_a_mistake_is_told_by_its_name(name, words):
    trainer = BUILDERS[name](2)
    # A sum over 2 rows is twice a mean.
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = 3
    found = judged(WRONG[name][words](trainer))[CHECK]
    assert found.status is Status.FAIL, (found.reason, found.findings)
    assert words in found.findings[0].cause
    assert " or " not in found.findings[0].cause


def test_no_number_that_is_none_passes():
    pipeline = Pipeline.from_trainer(BUILDERS["question_answering"](2))
    tried, wrong = wrongly_passed(registry().get(CHECK), pipeline)
    assert tried
    assert wrong == []
