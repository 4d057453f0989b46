"""Every fault kills exactly what it says, every control lives, every check can be killed."""

from __future__ import annotations

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from trainsanity.pipeline import PipelineSpec
from trainsanity.registry import registry
from trainsanity.runner import run
from trainsanity.types import Status

FAULTS = {f"{fault.stage}-{fault.id}": fault for fault in all_faults()}
CONTROLS = {control.id: control for control in all_controls()}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_kills_exactly(fault):
    report = run(PipelineSpec(fault.id, fault.build).make(), registry().all())
    by_status = {
        status: {r.check.name: r.reason for r in report.results if r.status is status}
        for status in Status
    }
    assert set(by_status[Status.FAIL]) == fault.kills
    # What the fault touches besides is blocked by it; nothing may be looked away from.
    for status in (Status.ERROR, Status.SKIP, Status.ABSTAIN):
        assert not by_status[status]
    assert report.exit_code() == 1


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


def test_every_check_is_killed_by_something():
    killed = set().union(*(fault.kills for fault in FAULTS.values()))
    assert killed == {check.name for check in registry().all()}


def test_every_fault_names_where_it_comes_from():
    assert all(fault.upstream and fault.title for fault in FAULTS.values())
