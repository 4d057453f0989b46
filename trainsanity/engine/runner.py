"""Runs checks on a pipeline in stage order.  Knows no pytest and prints nothing."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.diagnosis import explained_by, fails
from trainsanity.engine.processes import agreed
from trainsanity.engine.registry import Registry, registry
from trainsanity.engine.report import Report
from trainsanity.engine.session import Session
from trainsanity.engine.store import MeasurementError
from trainsanity.errors import UsageError
from trainsanity.isolation.callbacks import left_out
from trainsanity.isolation.fingerprint import guarded
from trainsanity.isolation.out_of_memory import described, give_back, out_of_memory
from trainsanity.isolation.time_limit import limited
from trainsanity.types import NOTHING, Abstain, Blocked, Check, Cost, Result, Skip, Status

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


FOLLOWS = "follows from"


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
        self.session = Session.of(pipeline)
        self.measurements = self.session.measurements
        self.timeout = self.measurements.limit = timeout
        self.checks = checks or registry()
        self.expected = dict(expected_failures or {})
        for name in self.expected:
            if self.checks.get(name).name != name:
                raise UsageError(f"expected_failures: name the check in full, not by {name!r}")
        self.results: dict[str, Result] = {}
        self.own_seconds: dict[str, float] = {}
        """Seconds of each check by itself, without the measurements that it was first to need."""
        self._broken: dict[str, str] = {}
        """Measurements that raised, and the check that met the error first."""
        self._told: dict[str, str] = {}
        """Exceptions of measurements in words, and the check that told each."""
        self._judging: set[str] = set()
        self._searching = False

    def result(self, check: Check) -> Result:
        """The check's result; what it requires is judged first."""
        if check.name not in self.results:
            world_size = self.session.facts.get("world_size") or 1
            self._judging.add(check.name)
            try:
                self.results[check.name] = agreed(self._judge(check), world_size)
            finally:
                self._judging.discard(check.name)
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
        start, measured = time.perf_counter(), sum(self.measurements.seconds.values())
        result = self._call(check)
        result = replace(result, seconds=time.perf_counter() - start)
        measured = sum(self.measurements.seconds.values()) - measured
        self.own_seconds[check.name] = result.seconds - measured
        if result.status is Status.FAIL:
            explained = self._explained(result)
            if explained is not None:
                reason, cause = explained
                return replace(
                    result, status=Status.BLOCKED, reason=reason, blocked_by=cause.check.name
                )
        verdicts = (Status.FAIL, Status.WARNING, Status.PASS)
        if check.name in self.expected and result.status in verdicts:
            status = Status.XPASS if result.status is Status.PASS else Status.XFAIL
            return replace(result, status=status, reason=self.expected[check.name])
        return result

    def _explained(self, failed: Result) -> tuple[str, Result] | None:
        """Return what accounts for a failure, in words, and the result of that; None if nothing."""
        check = failed.check
        earlier = [self.result(self.checks.get(name)) for name in check.explained_by]
        if (cause := explained_by(failed, earlier)) is not None:
            other, why = cause
            return f"explained by {other.check.code} {other.check.name}: {why}", other
        for name in check.follows:
            before = self.checks.get(name)
            # A question of a step is not asked for the sake of one of columns; and several
            # processes judge together, of which this one may be alone in failing.
            alone = name not in self.results and (self.session.facts.get("world_size") or 1) > 1
            if before.cost > check.cost or name in self._judging or alone:
                continue
            if fails(other := self.result(before)):
                return f"{FOLLOWS} {before.code} {name}", other
        return None

    def _call(self, check: Check) -> Result:
        def ended(status: Status, reason: str, debug: str = "") -> Result:
            return Result(check, self.pipeline.id, status, reason=reason, debug=debug)

        missing = [need for need in check.needs if getattr(self.pipeline, need, None) is None]
        if missing:
            words = " and no ".join(need.replace("_", " ") for need in missing)
            return ended(Status.SKIP, f"{NOTHING}{words}")
        try:
            looks = {name: self.measurements.get(name) for name in check.inputs}
            # Only a check that holds the pipeline itself can change it.
            guard = (
                guarded(self.pipeline, f"check {check.code}", self.measurements.known_hashes)
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
            self._broken[error.name] = check.name
            stopped_by = self._stopped_by()
            self._broken[error.name] = (stopped_by or check).name
            if stopped_by is None:
                # What a collator or a model raises is told once, whoever calls it.
                same = f"{type(error.error).__name__}: {error.error}"
                told_by = self._told.setdefault(same, check.name)
                if told_by != check.name:
                    self._broken[error.name] = told_by
                    blocked = ended(Status.BLOCKED, str(error), _traceback(error))
                    return replace(blocked, blocked_by=told_by)
                return ended(Status.ERROR, str(error), _traceback(error))
            return self._stopped(check, stopped_by, error)
        except (Exception, SystemExit) as error:
            debug = _traceback(error)
            if out_of_memory(error) is not None:
                give_back(error)
            return ended(Status.ERROR, described("the check", error), debug)
        return Result.of(check, self.pipeline.id, said)

    def _stopped_by(self) -> Check | None:
        """The first check that failed of those whose failures stop a training step.

        The others of them are judged now, if their turn has not come: a collator may be called
        before the labels are looked at, and raises because of them.
        """
        # Several processes go on in step, and this one may be alone in raising.
        if not self._searching and (self.session.facts.get("world_size") or 1) == 1:
            self._searching = True
            try:
                for check in self.checks.all():
                    if check.stops and check.name not in self._judging:
                        self.result(check)
            finally:
                self._searching = False
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


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def run(
    pipeline: Pipeline,
    checks: Iterable[Check],
    expected_failures: Mapping[str, str] | None = None,
    on_check: Callable[[Check], None] = lambda check: None,
    timeout: float | None = None,
    *,
    fail_fast: bool = False,
) -> Report:
    """Judge a pipeline.

    Args:
        pipeline: what is judged.
        checks: which checks, in the order of the report.
        expected_failures: check name to the reason why its failure is accepted.
        on_check: called with each check before it is judged, for a progress line.
        timeout: seconds that a check, and each measurement, may take; None for no limit.
        fail_fast: stop after the first failure; the report has the other checks as not asked.

    Raises:
        UsageError: the pipeline or the selection cannot be judged at all.
    """
    start = time.perf_counter()
    checks = list(checks)
    _refuse_without_gradients(pipeline, checks)
    runner = Runner(pipeline, expected_failures, timeout=timeout)
    session = runner.session
    results = []
    with _settled():
        for check in checks:
            on_check(check)
            results.append(runner.result(check))
            if fail_fast and results[-1].status in (Status.FAIL, Status.XPASS, Status.ERROR):
                break
    every = runner.checks.all()
    asked = {result.check.name for result in results}
    notes = _notes(session)
    if len(results) < len(checks):
        notes = [
            *notes,
            f"stopped at {results[-1].check.code}, the first that went wrong: "
            f"the {len(checks) - len(results)} checks behind it were not asked",
        ]
    return Report(
        pipeline.id,
        tuple(results),
        len(every),
        session.environment | {"notes": notes},
        session.facts | _cost_of_looking(session),
        time.perf_counter() - start,
        dict(session.measurements.seconds),
        dict(session.measurements.passes),
        judged=dict(runner.own_seconds),
        unasked=tuple(check for check in every if check.name not in asked),
        command=pipeline.command,
        source=pipeline.source,
        objective=session.recognition | _confirmation(session),
        library_warnings=tuple(pipeline.library_warnings),
    )


def _refuse_without_gradients(pipeline: Pipeline, checks: Sequence[Check]) -> None:
    """Refuse to take steps where autograd is off.  Turning it on would hide that training fails.

    Raises:
        UsageError: it is off, and a check asks for a gradient.
    """
    torch = sys.modules.get("torch")
    if torch is None or torch.is_grad_enabled() or pipeline.trainer is None:
        return
    if any(check.cost >= Cost.BACKWARD for check in checks):
        raise UsageError(
            "gradients are off here (torch.no_grad, torch.inference_mode or set_grad_enabled), and "
            "train() would fail as well: judge outside of that block, or turn them on"
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


def _confirmation(session: Session) -> dict[str, str]:
    """Return how the objective's formula was confirmed, if a check asked for that."""
    try:
        words = session.measurements.taken("confirmed").words
    except (Skip, UsageError, Abstain, Blocked, KeyError):
        return {}
    return {"confirmed": words} if words else {}


def _notes(session: Session) -> list[str]:
    """Return the pipeline's own notes, and what was left out or could not be put back."""
    pipeline = session.pipeline
    notes = [str(note) for note in session.environment["notes"]]
    if names := left_out(pipeline.trainer):
        notes.append(f"callbacks that took no part in the recorded steps: {', '.join(names)}")
    if getattr(pipeline.args, "torch_compile", False):
        notes.append("torch_compile: the recorded steps ran compiled; what was asked of model and "
                     "loss besides ran as it is written, since each other shape would be compiled "
                     "anew")  # fmt: skip
    if pipeline.unrestored:
        notes.append(f"could not be put back: {'; '.join(pipeline.unrestored)}")
    if pipeline.unwritten:
        notes.append(f"weights were not written to {', '.join(pipeline.unwritten[:5])} while the "
                     "pipeline was judged")  # fmt: skip
    return notes


def _cost_of_looking(session: Session) -> dict[str, Any]:
    """Return the GiB of the copy in host memory that is put back after the recorded steps."""
    try:
        recording = session.measurements.taken("recording")
    except (Skip, UsageError, Abstain, Blocked):
        return {}
    return {"snapshot_gib": round(recording.snapshot_bytes / 2**30, 2)}
