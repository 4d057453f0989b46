"""A handful of faults and controls again on a GPU, with the tiny pipeline: `pytest -m gpu -n0`.

What is to be seen here is that kernels of another device, their noise and their copies change no
verdict; the faults are one each of collator, model, loss, gradient and update.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from tests.check_snapshots import statuses_of
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Status

pytestmark = pytest.mark.gpu

FAULTS = {
    fault.id: fault
    for fault in all_faults()
    if fault.id
    in (
        "mask_all_ones",
        "tokens_counted",
        "count_dropped",
        "zeroed_in_between",
        "everything_decays",
    )
}
CONTROLS = {
    control.id: control
    for control in all_controls()
    if control.id in ("plain", "left_padding", "bf16_autocast", "dropout", "lora")
}
ON_GPU = {"use_cpu": False}


def judged(name, build):
    pipeline = PipelineSpec(name, build).make()
    assert pipeline.device.type == "cuda"
    report = run(pipeline, registry().select())
    by_status = {
        status: {r.check.name: r.reason for r in report.results if r.status is status}
        for status in Status
    }
    assert not by_status[Status.ERROR], by_status
    return pipeline, by_status


@pytest.mark.parametrize("name", FAULTS)
def test_fault_kills_exactly(name):
    fault = FAULTS[name]
    moved = replace(fault, settings={**fault.settings, **ON_GPU})
    pipeline, by_status = judged(name, moved.build)
    expected = fault.caught_by | fault.control.reveals(pipeline.trainer)
    assert set(by_status[Status.FAIL]) == expected, by_status


@pytest.mark.parametrize("name", CONTROLS)
def test_control_lives(name):
    control = CONTROLS[name]
    pipeline, by_status = judged(name, lambda: control.build(**ON_GPU))
    assert set(by_status[Status.FAIL]) == control.reveals(pipeline.trainer), by_status
    asked = {name for name, status in statuses_of(control.id).items() if status != "warning"}
    assert set(by_status[Status.SKIP]) | set(by_status[Status.ABSTAIN]) == asked
