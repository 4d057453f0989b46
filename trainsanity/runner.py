"""Runs checks on a pipeline in stage order.  Knows no pytest and prints nothing."""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .diagnosis import Diagnosis, diagnose, explained_by
from .errors import UsageError
from .limits import described, give_back, limited, out_of_memory
from .measurements import MeasurementError
from .measurements.state import guarded
from .ranks import agreed
from .registry import Registry, registry
from .types import RAN, Abstain, Blocked, Check, Finding, Result, Seen, Skip, Status

if TYPE_CHECKING:
    from .measurements.passes import Passes
    from .pipeline import Pipeline

OK, FAILED, USAGE, INCOMPLETE = 0, 1, 2, 3
"""Exit codes."""


class Runner:
    """The results of one pipeline, each check judged once and when it is first asked for.

    Args:
        pipeline: what is judged.
        expected_failures: check name to the reason why its failure is accepted.
        checks: the catalogue; the global one by default.
        timeout: seconds that a check, and each measurement, may take; None for no limit.

    Raises:
        UsageError: an expected failure names no check.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        expected_failures: Mapping[str, str] | None = None,
        checks: Registry | None = None,
        timeout: float | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.timeout = pipeline.measurements.limit = timeout
        self.checks = checks or registry()
        self.expected = dict(expected_failures or {})
        for name in self.expected:
            if self.checks.get(name).name != name:
                raise UsageError(f"expected_failures: name the check in full, not by {name!r}")
        self.results: dict[str, Result] = {}
        self._broken: dict[str, str] = {}
        """Measurements that raised, and the check that met the error first."""

    def result(self, check: Check) -> Result:
        """The check's result; what it requires is judged first."""
        if check.name not in self.results:
            world_size = self.pipeline.facts.get("world_size") or 1
            self.results[check.name] = agreed(self._judge(check), world_size)
        return self.results[check.name]

    def _judge(self, check: Check) -> Result:
        for name in check.requires:
            earlier = self.result(self.checks.get(name))
            # An accepted failure does not stand in the way: what depends on it is still judged.
            if earlier.status in (Status.FAIL, Status.ERROR, Status.BLOCKED):
                return Result(
                    check,
                    self.pipeline.id,
                    Status.BLOCKED,
                    reason=f"{earlier.check.code} {name} comes first: {earlier.status}",
                    blocked_by=name,
                )
        start = time.perf_counter()
        result = self._call(check)
        result = replace(result, seconds=time.perf_counter() - start)
        if result.status is Status.FAIL:
            cause = explained_by(
                result, [self.result(self.checks.get(name)) for name in check.explained_by]
            )
            if cause is not None:
                reason = (
                    f"explained by {cause.check.code} {cause.check.name}: "
                    f"the same factor {cause.factor:.2f}"
                )
                return replace(
                    result, status=Status.BLOCKED, reason=reason, blocked_by=cause.check.name
                )
        if check.name in self.expected and result.status in (Status.FAIL, Status.PASS):
            status = Status.XFAIL if result.status is Status.FAIL else Status.XPASS
            return replace(result, status=status, reason=self.expected[check.name])
        return result

    def _call(self, check: Check) -> Result:
        def ended(status: Status, reason: str, debug: str = "") -> Result:
            return Result(check, self.pipeline.id, status, reason=reason, debug=debug)

        missing = [need for need in check.needs if getattr(self.pipeline, need, None) is None]
        if missing:
            words = " and no ".join(need.replace("_", " ") for need in missing)
            return ended(Status.SKIP, f"this pipeline has no {words}")
        try:
            looks = {name: self.pipeline.measurements.get(name) for name in check.looks}
            # Only a check that holds the pipeline itself can change it.
            guard = (
                guarded(self.pipeline, f"check {check.code}")
                if "pipeline" in looks
                else contextlib.nullcontext()
            )
            with limited(self.timeout, f"check {check.code}"), guard:
                said = list(check.fn(**looks) or ())
        except UsageError as error:
            stopped_by = self._stopped_by()
            if stopped_by is None:
                raise
            return self._stopped(check, stopped_by, error)
        except Skip as skip:
            return ended(Status.SKIP, str(skip))
        except Abstain as abstain:
            return ended(Status.ABSTAIN, str(abstain))
        except Blocked as fault:
            return replace(ended(Status.BLOCKED, str(fault)), blocked_by=fault.by)
        except MeasurementError as error:
            if not error.first:
                blocked = ended(Status.BLOCKED, str(error), _traceback(error))
                return replace(blocked, blocked_by=self._broken.get(error.name))
            stopped_by = self._stopped_by()
            self._broken[error.name] = (stopped_by or check).name
            if stopped_by is None:
                return ended(Status.ERROR, str(error), _traceback(error))
            return self._stopped(check, stopped_by, error)
        except (Exception, SystemExit) as error:
            debug = _traceback(error)
            if out_of_memory(error) is not None:
                give_back(error)
            return ended(Status.ERROR, described("the check", error), debug)
        return _verdict(check, self.pipeline.id, said)

    def _stopped_by(self) -> Check | None:
        """The first check that failed of those whose failures stop a training step."""
        failed = [
            result.check
            for result in self.results.values()
            if result.check.stops and result.status is Status.FAIL
        ]
        return min(failed, key=lambda check: check.order, default=None)

    def _stopped(self, check: Check, by: Check, error: Exception) -> Result:
        reason = f"{by.code} {by.name} comes first: {error}"
        blocked = Result(check, self.pipeline.id, Status.BLOCKED, reason=reason)
        return replace(blocked, blocked_by=by.name, debug=_traceback(error))


def _verdict(check: Check, pipeline_id: str, said: list[Any]) -> Result:
    findings = tuple(item for item in said if isinstance(item, Finding))
    seen = next((item for item in said if isinstance(item, Seen)), None)
    strange = [item for item in said if not isinstance(item, Finding | Seen)]
    if strange:
        reason = f"the check said {strange[0]!r}; it may yield Seen and Finding"
        return Result(check, pipeline_id, Status.ERROR, reason=reason)
    if seen is not None and not findings and (odd := _not_a_number(seen)):
        reason = f"the check passed with {odd}, and what is no number shows nothing"
        return Result(check, pipeline_id, Status.ERROR, reason=reason)
    if not findings and seen is None:
        reason = "the check neither found nor saw anything; it must yield Seen to pass"
        return Result(check, pipeline_id, Status.ERROR, reason=reason)
    first = findings[0] if findings else None
    return Result(
        check,
        pipeline_id,
        Status.FAIL if findings else Status.PASS,
        findings,
        observed=first.observed if first else seen.observed if seen else None,
        expected=first.expected if first else seen.expected if seen else None,
        message=seen.message if seen else "",
    )


def _not_a_number(seen: Seen) -> str:
    """Where a NaN or an infinity is among what was measured and computed; empty if nowhere."""
    for name in ("observed", "expected"):
        values = [(name, getattr(seen, name))]
        for where, value in values:  # grows while it is read
            if isinstance(value, float) and not math.isfinite(value):
                return f"{where} = {value}"
            if isinstance(value, Mapping):
                values += [(f"{where}[{key!r}]", item) for key, item in value.items()]
            elif isinstance(value, list | tuple):
                values += [(f"{where}[{k}]", item) for k, item in enumerate(value)]
    return ""


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


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
        """First broken stage, its finding, who is acquitted."""
        return diagnose(self.results, self.unasked, of_a_log=self.of_a_log)

    def counts(self) -> dict[str, int]:
        """Number of results by status, all statuses named."""
        return {str(s): sum(r.status is s for r in self.results) for s in Status}

    def exit_code(self, *, strict: bool = False) -> int:
        """0 all that ran passed or failed as expected, 1 a failure, 3 incomplete."""
        statuses = {result.status for result in self.results}
        if statuses & {Status.FAIL, Status.XPASS}:
            return FAILED
        incomplete = {Status.ERROR}
        if strict:
            incomplete |= {Status.SKIP, Status.BLOCKED, Status.ABSTAIN}
        # What is blocked by a check that was not asked for must not end green.
        if statuses & incomplete or not self.ran or self._blocked_alone():
            return INCOMPLETE
        return OK

    def _blocked_alone(self) -> bool:
        names = {result.check.name for result in self.results}
        return any(
            result.status is Status.BLOCKED and result.blocked_by not in names
            for result in self.results
        )


def run(
    pipeline: Pipeline,
    checks: Iterable[Check],
    expected_failures: Mapping[str, str] | None = None,
    on_check: Callable[[Check], None] = lambda check: None,
    timeout: float | None = None,
) -> Report:
    """Judge a pipeline.

    Args:
        pipeline: what is judged.
        checks: which checks, in the order of the report.
        expected_failures: check name to the reason why its failure is accepted.
        on_check: called with each check before it is judged, for a progress line.
        timeout: seconds that a check, and each measurement, may take; None for no limit.

    Raises:
        UsageError: the pipeline or the selection cannot be judged at all.
    """
    start = time.perf_counter()
    runner = Runner(pipeline, expected_failures, timeout=timeout)
    results = []
    with _settled():
        for check in checks:
            on_check(check)
            results.append(runner.result(check))
    every = runner.checks.all()
    asked = {result.check.name for result in results}
    return Report(
        pipeline.id,
        tuple(results),
        len(every),
        pipeline.environment,
        pipeline.facts | _cost_of_looking(pipeline),
        time.perf_counter() - start,
        dict(pipeline.measurements.seconds),
        dict(pipeline.measurements.passes),
        unasked=tuple(check for check in every if check.name not in asked),
        command=pipeline.command,
    )


FROZEN_FROM_THE_START = 1000
"""Python 3.12 begins with 375 objects frozen; ``gc.freeze()`` moves all there are, 4,800 and more
in an interpreter that has imported nothing."""


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """Spare the garbage collector what is there already: the libraries and the pipeline.

    ``Trainer.train`` has everything collected, twice, which takes longer than a small model's step.
    """
    if gc.get_freeze_count() > FROZEN_FROM_THE_START:  # somebody else's doing, and to undo
        yield
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # or cycles would hold device memory until the end
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _cost_of_looking(pipeline: Pipeline) -> dict[str, Any]:
    """What was copied to host memory, to be put back after the recorded steps."""
    try:
        recording = pipeline.measurements.taken("recording")
    except (Skip, UsageError, Abstain, Blocked):
        return {}
    return {"snapshot_gib": round(recording.snapshot_bytes / 2**30, 2)}
