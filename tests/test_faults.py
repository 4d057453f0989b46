"""Every fault caught_by exactly what it says, and every check is killed by something."""

from __future__ import annotations

import os
import re

import pytest

from fixtures.faults import all_faults
from tests.check_snapshots import assert_results, assert_statuses, statuses_of
from tests.reports import assert_examples_are_current
from tests.untouched import untouched
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import STAGES, Cost, Status

SLOW = {"loop.overfits_one_batch", "loop.resume_equals_straight", "loop.survives_killed_save"}
"""Runs of many seconds: asked for only where a fault is to kill one of them."""


STATIC = ("speed.what_is_asked_is_used", "speed.variables_are_read")
"""Checks of the stage that take no time."""


def checks_for(fault):
    """All that the gate runs, and for a fault around the steps the runs.

    What a run says of a fault in an earlier stage that stage has said.
    """
    if fault.stage == "speed":
        # Other times are the machine's, and what a slow pipeline is besides its base has been told.
        return registry().select([*STATIC, *fault.caught_by, *fault.warned_by])
    if fault.stage != "loop":
        return registry().select()
    return registry().select(ignore={*SLOW, "speed"} - fault.caught_by, max_cost=Cost.RUN)


def timed():
    """The checks whose numbers are times."""
    return [check for check in registry().select(["speed"]) if check.cost is Cost.RUN]


FAULTS = {f"{fault.stage}-{fault.id}": fault for fault in all_faults()}
ALONE = {name: fault for name, fault in FAULTS.items() if fault.processes == 1}
"""The others are in test_processes.py."""


GATE = {"gradient"}
"""The stage whose checks are shown to fail wherever tests run; `tox -e matrix` shows all."""


def faults():
    """The faults, those marked for which others stand."""
    killed = set()
    for name, fault in ALONE.items():
        found = fault.caught_by | fault.warned_by
        gate = fault.stage in GATE and found - killed
        marks = () if gate else (pytest.mark.corpus,)
        killed |= found
        yield pytest.param(fault, id=name, marks=marks)


@pytest.fixture
def environment():
    """Put back what a fault sets; nothing of it is for the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


# Torch says of a scheduler that is stepped for nothing that it comes too early.
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("fault", [*faults()])
def test_fault_kills_exactly(fault):
    # A process of its own builds it by this name.
    pipeline = PipelineSpec(fault.id, fault.build, command=(fault.command,)).make()
    base = fault.control
    revealed = base.reveals(pipeline.trainer)
    with untouched(pipeline):
        report = run(pipeline, checks_for(fault))
    by_status = {
        status: {r.check.name: r.reason for r in report.results if r.status is status}
        for status in Status
    }
    assert fault.caught_by <= set(by_status[Status.FAIL]) <= fault.caught_by | revealed, by_status
    healthy = {name for name, status in statuses_of(base.id).items() if status == "warning"}
    warned = set(by_status[Status.WARNING])
    assert fault.warned_by <= warned <= fault.warned_by | healthy, by_status
    assert not by_status[Status.ERROR], by_status
    # What the fault touches besides is blocked by it, or skips; each is kept with its check.
    if not revealed:
        assert_statuses(fault.id, report.results)
    assert report.exit_code() == (1 if fault.caught_by else 0)
    assert_examples_are_current(fault.id, report.results)
    assert_results(
        fault.id,
        (
            r
            for r in report.results
            if r.check.name in (fault.caught_by or fault.warned_by) and r.check not in timed()
        ),
    )


def test_every_check_is_killed_by_something():
    killed = set().union(*(fault.caught_by | fault.warned_by for fault in FAULTS.values()))
    assert killed == {check.name for check in registry().all()}


def test_every_fault_names_where_it_comes_from():
    assert all(fault.upstream and fault.title for fault in FAULTS.values())


ISSUE = re.compile(r"[\w.-]+/[\w.-]+#\d+")


def test_most_faults_are_built_from_an_issue_and_three_fail_two_checks_on_average():
    cited = [fault for fault in FAULTS.values() if ISSUE.search(fault.upstream)]
    assert len(FAULTS) >= 60
    assert len(cited) >= 45
    caught_by = sum(len(fault.caught_by | fault.warned_by) for fault in FAULTS.values())
    assert caught_by >= 1.5 * len(registry().all())


def test_faults_are_spread():
    bases = {fault.base for fault in FAULTS.values()}
    tasks = {"plain", "multi_label", "regression", "token_labels", "language_model"}
    assert tasks | {"lora", "dropout", "gpt2", "bert", "from_checkpoint"} <= bases
    assert len({fault.stage for fault in FAULTS.values()}) == len(STAGES)
    steps = {fault.settings.get("gradient_accumulation_steps", 4) for fault in FAULTS.values()}
    assert len(steps) > 1
