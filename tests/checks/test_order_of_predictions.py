"""An order of predictions is judged where there are predictions."""

from __future__ import annotations

import pytest

from fixtures.controls import declared
from fixtures.controls.factories import CHEAP
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status


@pytest.mark.parametrize(("alone", "status"), [(False, Status.WARNING), (True, Status.PASS)])
def test_predictions_in_another_order(alone, status):
    import fixtures.controls.loops  # noqa: F401

    trainer = declared("grouped_by_length").build(**CHEAP)
    trainer.args.prediction_loss_only = alone
    report = run(Pipeline.from_trainer(trainer), registry().select(["loop.predict_keeps_order"]))
    found = {result.check.name: result for result in report.results}["loop.predict_keeps_order"]
    assert found.status is status, (found.reason, found.findings)
