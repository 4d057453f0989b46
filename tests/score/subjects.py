"""What is scored: the faults, the controls, and the healthy bases that the faults are built on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from trainsanity.engine.registry import registry


@dataclass(frozen=True)
class Subject:
    """A pipeline that every tool looks at.

    Attributes:
        id: ``fault:NAME``, ``control:NAME``, or ``runs:NAME`` for a control of which the runs are
            asked, too: the base of the faults around the steps.
        build: makes the Trainer.
        factory: the same as ``module:name``, for processes that build it again.
        runs: whether checks are asked that train several times.
        stage: that the fault is filed under.
        stages: where it lies: that stage, and those of the checks that it caught_by.
        base: id of the healthy pipeline that it was made from; empty for a control.
    """

    id: str
    build: Callable[[], Any]
    factory: str
    runs: bool = False
    stage: str = ""
    stages: frozenset[str] = frozenset()
    base: str = ""

    @property
    def name(self) -> str:
        """Of the fault or control."""
        return self.id.partition(":")[2]

    @property
    def is_fault(self) -> bool:
        """Or else it is healthy."""
        return bool(self.base)


def subjects() -> dict[str, Subject]:
    """All by id: controls, bases with runs, faults."""
    # Those of two processes are for tools that can be started so, which no peer can.
    faults = [fault for fault in all_faults() if fault.processes == 1]
    bases = {fault.base for fault in faults if fault.stage == "loop"}
    found = []
    for control in all_controls():
        factory = f"fixtures.controls.factories:{control.id}"
        found.append(Subject(f"control:{control.id}", control.build, factory))
        if control.id in bases:
            found.append(Subject(f"runs:{control.id}", control.build, factory, runs=True))
    for fault in faults:
        runs = fault.stage == "loop"
        found.append(
            Subject(
                f"fault:{fault.id}",
                fault.build,
                f"fixtures.faults.factories:{fault.id}",
                runs,
                fault.stage,
                frozenset({fault.stage, *(registry().get(name).stage for name in fault.caught_by)}),
                f"{'runs' if runs else 'control'}:{fault.base}",
            )
        )
    return {one.id: one for one in found}
