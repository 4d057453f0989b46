"""The results of one pipeline, with what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.diagnosis import Diagnosis, diagnose
from trainsanity.errors import ExitCode
from trainsanity.types import RAN, Check, Cost, Judges, Result, Status

if TYPE_CHECKING:
    from trainsanity.isolation.library_warnings import LibraryWarning
    from trainsanity.isolation.pass_counter import Passes


@dataclass(frozen=True)
class Policy:
    """The choice of what counts as a failure, or as incomplete.

    Attributes:
        strict: a skipped, blocked or abstaining check makes the run incomplete, and warnings count
            as failures.
        warnings_as_errors: warnings count as failures.
    """

    strict: bool = False
    warnings_as_errors: bool = False

    @property
    def warnings_fail(self) -> bool:
        """Return whether a warning counts as a failure."""
        return self.strict or self.warnings_as_errors


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
    """Passes of each measurement."""
    judged: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each check by itself, without its measurements."""
    unasked: tuple[Check, ...] = ()
    """Checks that exist but were not selected."""
    command: tuple[str, ...] = ()
    """As in ``Pipeline``."""
    library_warnings: tuple[LibraryWarning, ...] = ()
    """Warnings of the libraries while the pipeline was built and stepped."""
    of_a_log: bool = False
    """Nothing but the log of the run was seen."""
    policy: Policy = Policy()
    """The choice of what counts as a failure."""
    objective: Mapping[str, str] = field(default_factory=dict)
    """Name of the objective, how it was recognised, and how it was confirmed."""
    known: frozenset[str] = frozenset()
    """Names of checks that have no verdict now and had none in the baseline."""
    source: tuple[str, int] | None = None
    """File and line of a script at which training begins; None where that is not known."""
    unjudged: str = ""
    """Why the pipeline could not be judged at all; empty if it was."""

    @classmethod
    def of_unjudged(cls, pipeline_id: str, why: str, total: int) -> Report:
        """Return the report of a pipeline that could not be judged, beside others that were."""
        return cls(pipeline_id, (), total, {}, {}, 0.0, unjudged=why)

    @property
    def ran(self) -> int:
        """Number of checks that reached a verdict."""
        return sum(result.status in RAN for result in self.results)

    @property
    def diagnosis(self) -> Diagnosis:
        """Return the first broken stage, its finding, and what is ruled out."""
        return diagnose(self.results, self.unasked, of_a_log=self.of_a_log)

    @property
    def failures(self) -> tuple[Result, ...]:
        """Return the results that failed and are neither accepted nor explained by another."""
        return tuple(result for result in self.results if result.status is Status.FAIL)

    @property
    def warnings(self) -> tuple[Result, ...]:
        """Return the results that warn."""
        return tuple(result for result in self.results if result.status is Status.WARNING)

    def __getitem__(self, check: str) -> Result:
        """Return the result of one check, by its code or its name.

        Raises:
            KeyError: the check was not selected, or does not exist.
        """
        for result in self.results:
            if check == result.check.name or check.upper() == result.check.code:
                return result
        raise KeyError(f"{check!r} is none of the {len(self.results)} checks that were selected")

    def counts(self) -> dict[str, int]:
        """Return the number of results by status, with all statuses."""
        return {str(s): sum(r.status is s for r in self.results) for s in Status}

    @property
    def not_judged(self) -> tuple[Judges, ...]:
        """Return which of loss and gradient were to be judged and were not.

        Empty if one of them reached a verdict, or if no check was selected that takes a step and
        judges it: a call that asks for less than a step is complete without.  A log holds no
        computed values, and its own headline says how far its questions go.
        """
        judging = [] if self.of_a_log else self.judging
        if not any(result.check.cost >= Cost.STEP for result in judging):
            return ()
        if any(result.status in RAN for result in judging):
            return ()
        judging = [result for result in judging if result.check.name not in self.known]
        return tuple(kind for kind in Judges if any(r.check.judges == kind for r in judging))

    @property
    def recognition(self) -> dict[str, str]:
        """Return the objective's name, how it was recognised, and how it was confirmed."""
        named = dict(self.objective)
        if named and not named.get("confirmed"):
            named["confirmed"] = self._as_computed()
        return named

    def _as_computed(self) -> str:
        """Return which checks found loss and gradient to be as computed."""
        good = (Status.PASS, Status.WARNING)
        groups = []
        for kind in Judges:
            held = [r.check.code for r in self.judging
                    if r.check.judges is kind and r.status in good]  # fmt: skip
            if held:
                groups.append(f"{kind} as computed in {', '.join(held)}")
        return "; ".join(groups) or "neither loss nor gradient was found to be as computed"

    @property
    def judging(self) -> list[Result]:
        """Results of the checks that hold a loss or a gradient against a computed value."""
        return [result for result in self.results if result.check.judges is not None]

    def exit_code(self) -> ExitCode:
        """Return the exit code of a run that ends with this report."""
        if self.unjudged:
            return ExitCode.USAGE
        statuses = {result.status for result in self.results}
        failures = {Status.FAIL, Status.XPASS}
        if self.policy.warnings_fail:
            failures |= {Status.WARNING}
        if statuses & failures:
            return ExitCode.FAILED
        statuses = {r.status for r in self.results if r.check.name not in self.known}
        incomplete = {Status.ERROR}
        if self.policy.strict:
            incomplete |= {Status.SKIP, Status.BLOCKED, Status.ABSTAIN}
        # What is blocked by a check that was not selected must not end green.
        if statuses & incomplete or not self.ran or self._blocked_alone() or self.not_judged:
            return ExitCode.INCOMPLETE
        return ExitCode.OK

    @property
    def good(self) -> bool:
        """Return whether a run that ends with this report ends with success."""
        return self.exit_code() is ExitCode.OK

    def _blocked_alone(self) -> bool:
        """Return whether a check is blocked by one that was not selected."""
        names = {result.check.name for result in self.results}
        return any(
            result.status is Status.BLOCKED
            and result.blocked_by not in names
            and result.check.name not in self.known
            for result in self.results
        )
