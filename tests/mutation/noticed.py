"""What the mutants are judged by besides the tests of single modules.

Each fault is asked only by the checks that are to find it, and they must say what they said
without a mutant. The whole catalogue on every fault, as `tests/test_faults.py` asks it, would take
hours for a sample.
"""

from __future__ import annotations

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from tests.mutation.recorded import assert_as_recorded
from trainsanity.pipeline import PipelineSpec
from trainsanity.registry import registry
from trainsanity.runner import run
from trainsanity.types import Status

ONE_OF_A_KIND = {
    *("plain", "left_padding", "dropout", "multi_label", "regression", "token_labels"),
    *("language_model", "lora", "frozen_backbone", "gradient_checkpointing", "streaming"),
    *("from_checkpoint", "gpt2", "bert"),
}
"""A control for each task and each way to look."""

FAULTS = {f"{fault.stage}-{fault.id}": fault for fault in all_faults() if fault.processes == 1}
CONTROLS = {control.id: control for control in all_controls() if control.id in ONE_OF_A_KIND}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault(fault):
    command = (f"fixtures.faults.factories:{fault.id}",)
    pipeline = PipelineSpec(fault.id, fault.build, command=command).make()
    results = run(pipeline, [registry().get(name) for name in sorted(fault.kills)]).results
    assert {result.status for result in results} == {Status.FAIL}
    assert_as_recorded(f"fault-{fault.id}", results)


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_control(control):
    pipeline = PipelineSpec(control.id, control.build).make()
    assert_as_recorded(f"control-{control.id}", run(pipeline, registry().select()).results)
