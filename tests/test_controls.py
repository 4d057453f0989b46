"""Every healthy pipeline passes every check, or says why it cannot look."""

from __future__ import annotations

import pytest

from fixtures.controls import all_controls
from trainsanity.pipeline import PipelineSpec
from trainsanity.registry import registry
from trainsanity.runner import run
from trainsanity.types import Status

CONTROLS = {control.id: control for control in all_controls()}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_control_lives(control):
    pipeline = PipelineSpec(control.id, control.build).make()
    revealed = control.reveals(pipeline.trainer)
    report = run(pipeline, registry().all())
    not_passed = {
        r.check.name: (str(r.status), r.reason, [f.message for f in r.findings])
        for r in report.results
        if r.status is not Status.PASS
    }
    assert set(not_passed) == control.skips | revealed, not_passed
    for name, (status, *_) in not_passed.items():
        assert status == "fail" if name in revealed else status in ("skip", "abstain")
