"""Outputs of models that are no classifiers of rows are asked for being numbers, too."""

from __future__ import annotations

import math

import pytest
import torch

from fixtures.accumulation import tabular
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, Status.PASS),
        (math.nan, Status.FAIL),
        (math.inf, Status.FAIL),
        # What cannot occur is masked so.
        (-math.inf, Status.PASS),
    ],
)
def test_a_module_of_numbers(value, status):
    trainer = tabular(2)
    layer = [one for one in trainer.model.modules() if isinstance(one, torch.nn.Linear)][-1]
    if value is not None:
        with torch.no_grad():
            layer.bias[0] = value
    report = run(Pipeline.from_trainer(trainer), registry().select(["model.logits_finite"]))
    found = next(one for one in report.results if one.check.name == "model.logits_finite")
    assert found.status is status, (found.reason, found.findings)
