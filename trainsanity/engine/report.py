"""The results of one pipeline, with what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.diagnosis import Diagnosis, diagnose
from trainsanity.errors import ExitCode
from trainsanity.types import RAN, Check, Cost, Judges, Result, Status

if TYPE_CHECKING:
    from trainsanity.isolation.pass_counter import Passes


@dataclass(frozen=True)
class Report:
    """The results of one run, with what they mean."""

    pipeline_id: str
    results: tuple[Result, ...]
    total: int
    environment: Mapping[str, Any]
    facts: Mapping[str, Any]
    seconds: float
    measured: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each measurement."""
    passes: Mapping[str, Passes] = field(default_factory=dict)
    """What each of them ran."""
    unasked: tuple[Check, ...] = ()
    """Checks that exist but were not selected."""
    command: tuple[str, ...] = ()
    """As in ``Pipeline``."""
    of_a_log: bool = False
    """Nothing but the log of the run was seen."""

    @property
    def ran(self) -> int:
        """Checks that reached a verdict."""
        return sum(result.status in RAN for result in self.results)

    @property
    def diagnosis(self) -> Diagnosis:
        """First broken stage, its finding, what is ruled out."""
        return diagnose(self.results, self.unasked, of_a_log=self.of_a_log)

    def counts(self) -> dict[str, int]:
        """Number of results by status, all statuses named."""
        return {str(s): sum(r.status is s for r in self.results) for s in Status}

    @property
    def not_judged(self) -> tuple[Judges, ...]:
        """What checks of the training step were to hold against computed values and did not.

        Empty if one of them reached a verdict, or if no more was selected than checks that take no
        step: who asks for less than a step is not told that the step was not judged.
        """
        judging = [result for result in self.results if result.check.judges is not None]
        if not any(result.check.cost >= Cost.STEP for result in judging):
            return ()
        if any(result.status in RAN for result in judging):
            return ()
        return tuple(kind for kind in Judges if any(r.check.judges is kind for r in judging))

    def exit_code(self, *, strict: bool = False, warnings_as_errors: bool = False) -> ExitCode:
        """Return 0 if all that ran passed or failed as expected, 1 for a failure, 3 if incomplete.

        Args:
            strict: a skipped, blocked or abstaining check makes the run incomplete, and warnings
                count as failures.
            warnings_as_errors: warnings count as failures.
        """
        statuses = {result.status for result in self.results}
        failures = {Status.FAIL, Status.XPASS}
        if strict or warnings_as_errors:
            failures |= {Status.WARNING}
        if statuses & failures:
            return ExitCode.FAILED
        incomplete = {Status.ERROR}
        if strict:
            incomplete |= {Status.SKIP, Status.BLOCKED, Status.ABSTAIN}
        # What is blocked by a check that was not asked for must not end green.
        if statuses & incomplete or not self.ran or self._blocked_alone() or self.not_judged:
            return ExitCode.INCOMPLETE
        return ExitCode.OK

    def _blocked_alone(self) -> bool:
        names = {result.check.name for result in self.results}
        return any(
            result.status is Status.BLOCKED and result.blocked_by not in names
            for result in self.results
        )
