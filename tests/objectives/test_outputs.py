"""Formulas of outputs: a library's own loss confirms each, a mistake is told by its name."""

from __future__ import annotations

import pytest

from fixtures.outputs import BUILDERS, WRONG
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


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, several in WRONG.items() for words in several]
)
def test_a_mistake_is_told_by_its_name(name, words):
    trainer = BUILDERS[name](2)
    # A sum over 2 rows is twice a mean.
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = 3
    found = judged(WRONG[name][words](trainer))[CHECK]
    assert found.status is Status.FAIL, (found.reason, found.findings)
    assert words in found.findings[0].cause
    assert " or " not in found.findings[0].cause
