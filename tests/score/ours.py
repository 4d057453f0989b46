"""trainsanity, on its own fixtures."""

from __future__ import annotations

from fixtures.controls import all_controls
from fixtures.faults import Fault, all_faults
from tests.check_snapshots import statuses_of
from tests.test_faults import SLOW, checks_for
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Check, Cost, Status

from .looks import Look, line
from .subjects import Subject

PACKAGE = "trainsanity"

STAGES = {check.name: {check.stage} for check in registry().all()}
"""By check, where it says that something is wrong."""


def look(subject: Subject) -> Look:
    """Run what the tests run."""
    pipeline = PipelineSpec(subject.name, subject.build, command=(subject.factory,)).make()
    fault = next((one for one in all_faults() if f"fault:{one.id}" == subject.id), None)
    base = fault.control if fault else next(c for c in all_controls() if c.id == subject.name)
    revealed = base.reveals(pipeline.trainer)
    usual = {*statuses_of(base.id), *(statuses_of(fault.id) if fault else ())}
    report = run(pipeline, _checks(subject, fault), expected_failures=base.accepted)
    failed, looked_away = set(), set()
    said = Look()
    for result in report.results:
        name = result.check.name
        if result.status is Status.FAIL:
            failed.add(name)
            if name not in revealed:  # a defect of this transformers, on its healthy pipelines, too
                said.red[name] = line(result.findings[0].headline)
        elif result.status in (Status.SKIP, Status.ABSTAIN, Status.ERROR):
            said.unable[name] = f"{result.status}: {line(result.reason)}"
        if result.status in (Status.SKIP, Status.ABSTAIN):
            looked_away.add(name)
    errors = any(r.status is Status.ERROR for r in report.results)
    caught_by = fault.caught_by if fault else frozenset()
    said.more = {
        "exact": caught_by <= failed <= caught_by | revealed
        and not errors
        and (subject.runs or looked_away <= usual)
    }
    return said


def _checks(subject: Subject, fault: Fault | None) -> tuple[Check, ...]:
    if fault:
        return tuple(checks_for(fault))
    if not subject.runs:
        return tuple(registry().select())
    asked: set[str] = set()
    for one in all_faults():
        if one.stage == "loop" and one.base == subject.name:
            asked |= one.caught_by
    return tuple(registry().select(ignore=SLOW - asked, max_cost=Cost.RUN))
