"""What the mutants are judged by besides the tests of single modules.

Less than `tests/test_faults.py` and `tests/test_controls.py` ask, of which each mutant would take
an hour: each fault is judged by the checks alone that are to find it. What is noticed here would be
noticed there.
"""

from __future__ import annotations

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from fixtures.processes import reported
from tests.check_snapshots import assert_results
from tests.test_processes import FAULTS as IN_PROCESSES
from tests.test_processes import assert_healthy, assert_kills, example
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Status

FAULTS = {f"{fault.stage}-{fault.id}": fault for fault in all_faults() if fault.processes == 1}
CONTROLS = {control.id: control for control in all_controls()}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault(fault):
    command = (f"fixtures.faults.factories:{fault.id}",)
    pipeline = PipelineSpec(fault.id, fault.build, command=command).make()
    results = run(pipeline, [registry().get(name) for name in sorted(fault.caught_by)]).results
    assert {result.status for result in results} == {Status.FAIL}
    assert_results(fault.id, results)


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
def test_control(control):
    pipeline = PipelineSpec(control.id, control.build).make()
    report = run(pipeline, registry().select(), expected_failures=control.accepted)
    assert not [r.check.name for r in report.results if r.status is Status.FAIL]


# One after the other, where tests/test_processes.py starts two processes once for all of them.


@pytest.mark.distributed
@pytest.mark.parametrize("fault", IN_PROCESSES.values(), ids=IN_PROCESSES)
def test_processes_fault(fault):
    (report,), _ = reported([fault.command])
    assert_kills(fault, report)


@pytest.mark.distributed
def test_processes_healthy():
    names = ("healthy", "sharded_and_loaded_by_one")
    reports, _ = reported([example(name) for name in names])
    for name, report in zip(names, reports, strict=True):
        assert_healthy(name, report)
