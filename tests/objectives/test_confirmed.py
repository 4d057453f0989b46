"""Each objective's formula on a real tiny Trainer, and on one whose loss is wrong."""

from __future__ import annotations

import pytest
import torch

from fixtures.accumulation import BUILDERS as TASKS
from fixtures.faults import subclassed
from fixtures.outputs import multiple_choice
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import objective_of
from trainsanity.objectives.base import SINGLE_LABEL, TOKENS
from trainsanity.objectives.classification import MULTIPLE_CHOICE
from trainsanity.objectives.masked_lm import MASKED_LM, SEQ2SEQ
from trainsanity.types import Status

OBJECTIVES = {
    "masked_lm": MASKED_LM,
    "t5": SEQ2SEQ,
    "bart": SEQ2SEQ,
    "image_classification": SINGLE_LABEL,
    "token_classification": TOKENS,
    "multiple_choice": MULTIPLE_CHOICE,
}
BUILDERS = {**TASKS, "multiple_choice": multiple_choice}


def judged(trainer):
    names = ["loss.matches_reference", "loss.formula_is_known", "gradient.matches_autograd"]
    report = run(Pipeline.from_trainer(trainer), registry().select(names))
    return {result.check.name: result for result in report.results}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_formula_is_the_librarys_loss(name):
    trainer = BUILDERS[name](2)
    assert objective_of(Pipeline.from_trainer(trainer)).name == OBJECTIVES[name]
    results = judged(trainer)
    assert results["loss.matches_reference"].status is Status.PASS
    assert results["gradient.matches_autograd"].status is Status.PASS


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_sum_over_the_items_is_not_the_formula_and_is_named(name):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        logits = outputs.logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), inputs["labels"].reshape(-1), reduction="sum"
        )
        return (loss, outputs) if return_outputs else loss

    results = judged(subclassed(BUILDERS[name](2), compute_loss=compute_loss))
    found = results["loss.formula_is_known"]
    assert found.status is Status.FAIL
    assert "summed over the items" in found.findings[0].cause
    assert results["loss.matches_reference"].status is Status.BLOCKED
