"""What a rehearsal showed, in values and sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.engine.store import MeasurementError
from trainsanity.errors import ExitCode, UsageError
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.speed.rehearsal import Batch, Checkpoint, Rehearsal
from trainsanity.measurements.speed.whole_run import EvaluationCost, WholeRun
from trainsanity.report.words import counted
from trainsanity.types import Abstain, Blocked, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

GIB, MIB = 2**30, 2**20

MINUTE = 60
"""Seconds of a minute, and minutes of an hour."""

TENS = 10
"""From here on two digits need no decimals."""

DAY = 24
"""Hours above which nobody asks for the minutes."""


@dataclass(frozen=True)
class Line:
    """One line of the outcome.

    Attributes:
        of: what it is about.
        text: what was seen.
        ill: whether the run would end by it.
    """

    of: str
    text: str
    ill: bool = False


@dataclass
class Outcome:
    """The outcome of one pipeline's rehearsal.

    Attributes:
        id: of the pipeline.
        environment: versions, device and settings.
        lines: what was seen, in order.
        hours: by stage of the run.
        spread: relative, of the hours of training.
        values: all of it as JSON values.
        unknown: what could not be rehearsed, a sentence each.
    """

    id: str
    environment: dict[str, Any]
    lines: list[Line] = field(default_factory=list)
    hours: dict[str, float] = field(default_factory=dict)
    spread: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """Return 1 where the run would end early, 3 where the longest batch was not tried."""
        if any(line.ill for line in self.lines):
            return ExitCode.FAILED
        return ExitCode.OK if self.values.get("batches") else ExitCode.INCOMPLETE

    @property
    def verdict(self) -> str:
        """Return the outcome in a few words."""
        ill = [line.of for line in self.lines if line.ill]
        if ill:
            return f"the run will not end: {', '.join(ill)}"
        if self.exit_code is ExitCode.INCOMPLETE:
            return "not rehearsed: the longest batch is not known"
        took = f", about {_duration(3600 * sum(self.hours.values()))}" if self.hours else ""
        return f"the longest batch fits{took}"


def rehearse(pipeline: Pipeline, show: Callable[[str], None]) -> Outcome:
    """Rehearse a pipeline's run, and return what it will meet.

    Args:
        pipeline: with a Trainer.
        show: called with what is being tried.

    Raises:
        UsageError: there is no Trainer.
    """
    if pipeline.trainer is None:
        raise UsageError(
            f"{pipeline.id} has no Trainer: how a custom loop forms its batches, saves and ends is "
            "not known; `trainsanity run --select speed` times its steps"
        )
    session = Session.of(pipeline)
    outcome = Outcome(pipeline.id, dict(session.environment))
    found: dict[str, Any] = {}
    for name, words in (("rehearsal", "the longest batch"), ("whole_run", "usual steps")):
        show(words)
        try:
            found[name] = session.measurements.get(name)
        except (Skip, Abstain, Blocked, MeasurementError) as why:
            outcome.unknown.append(f"{words}: {why}")
    rehearsal, run = found.get("rehearsal"), found.get("whole_run")
    if rehearsal is not None:
        _batches(outcome, rehearsal)
    if run is not None:
        _evaluations(outcome, run, rehearsal)
        _hours(outcome, run, rehearsal)
    if rehearsal is not None:
        _checkpoint(outcome, rehearsal.checkpoint, run)
    outcome.values |= {"hours": outcome.hours, "unknown": outcome.unknown}
    return outcome


def _batches(outcome: Outcome, seen: Rehearsal) -> None:
    fits, fails, available = seen.fits, seen.fails, seen.available
    outcome.values |= {
        "batches": [_as_values(one) for one in seen.batches],
        "available_bytes": available,
        "counted": seen.counted,
    }
    outcome.unknown += seen.untried
    if fails is not None:
        outcome.lines.append(Line("memory", _failing(fails, fits, seen.each), ill=True))
    if fits is not None:
        first, *again = fits.peaks
        then = f", then {_size(max(again))}" if again else ""
        outcome.lines.append(Line(
            "longest batch" if fails is None else "longest that fits",
            f"{_named(fits)}: at the most {_size(first)} in its first step{then}, {seen.counted}, "
            f"of {_size(available)}; {_duration(fits.seconds)} a micro-batch ({seen.words})",
        ))  # fmt: skip


def _failing(fails: Batch, fits: Batch | None, each: int) -> str:
    least = fits.chance if fits is not None else 1.0
    text = f"out of memory at {_named(fails)}" + (f": {fails.asked}" if fails.asked else "")
    if 0 < least < 1:
        # Of independent draws, the mean number up to the first is one over the chance.
        step = math.ceil(1 / (least * each))
        text += f"; {least:.2%} of the batches are longer than what fits: expected by step {step:,}"
    return text


def _named(batch: Batch) -> str:
    shape = " x ".join(map(str, batch.shape)) or f"{len(batch.rows)} rows"
    rows = ", ".join(map(str, batch.rows[:3])) + (", ..." if len(batch.rows) > 3 else "")
    return f"the batch of rows {rows} ({shape} tokens, the longest row has {batch.length})"


def _evaluations(outcome: Outcome, run: WholeRun, seen: Rehearsal | None) -> None:
    available = seen.available if seen is not None else 0
    for cost in run.costs:
        outcome.lines += _of_evaluation(cost, available)
    outcome.values["evaluation"] = [vars(one) for one in run.costs]


def _of_evaluation(cost: EvaluationCost, available: int) -> list[Line]:
    where = f"evaluation on {cost.name}"
    if cost.words:
        return [Line(where, cost.words)]
    if not cost.fits:
        return [Line(where, f"its longest batch (longest row {cost.longest} tokens) runs out of "
                     f"memory{': ' + cost.asked if cost.asked else ''}", ill=True)]  # fmt: skip
    peak = f"; longest batch (longest row {cost.longest} tokens): {_size(cost.peak)} at the most"
    lines = [Line(where, f"{cost.batches:,} batches of {_duration(cost.seconds)}"
                  + (peak if cost.peak else ""))]  # fmt: skip
    if cost.kept:
        beyond = available > 0 and cost.peak + cost.kept > available
        full = "; there is no room for that: eval_accumulation_steps moves them to host memory"
        lines.append(Line(
            f"predictions on {cost.name}",
            f"about {_size(cost.kept)} of them stay on the device until the evaluation ends "
            f"(an estimate: the longest batch's, for all rows){full if beyond else ''}",
            ill=beyond,
        ))  # fmt: skip
    return lines


def _hours(outcome: Outcome, run: WholeRun, seen: Rehearsal | None) -> None:
    usual = run.usual
    if usual is None or not usual.steps:
        outcome.unknown.append(run.words or "the run ends before a step could be timed")
        return
    outcome.hours["training"] = usual.max_steps * usual.seconds / 3600
    outcome.spread = STANDARD_ERRORS * usual.error / usual.seconds
    known = [one for one in run.costs if not math.isnan(one.seconds)]
    if run.evaluations and known:
        each = sum(one.batches * one.seconds for one in known)
        outcome.hours["evaluation"] = run.evaluations * each / 3600
    written = seen.checkpoint.seconds if seen is not None and seen.checkpoint else math.nan
    if run.saves and not math.isnan(written):
        outcome.hours["saving"] = run.saves * written / 3600
    parts = ", ".join(f"{name} {_duration(3600 * hours)}" for name, hours in outcome.hours.items())
    outcome.lines.append(Line(
        "time",
        f"{parts}: {usual.max_steps:,} steps of {_duration(usual.seconds)} (± {outcome.spread:.0%} "
        f"by the {len(usual.steps)} that were timed), {counted(run.evaluations, 'evaluation')}, "
        f"{counted(run.saves, 'checkpoint')}",
    ))  # fmt: skip
    outcome.values |= {
        "max_steps": usual.max_steps,
        "step_seconds": usual.seconds,
        "step_error": usual.error,
        "timed_steps": len(usual.steps),
        "evaluations": run.evaluations,
        "saves": run.saves,
    }


def _checkpoint(outcome: Outcome, found: Checkpoint | None, run: WholeRun | None) -> None:
    if found is None:
        return
    count = run.kept if run is not None and run.kept else 1
    needed = found.size * count
    took = f", {_duration(found.seconds)} to write" if not math.isnan(found.seconds) else ""
    full = found.free > 0 and needed > found.free
    by = f"; the disk is full at checkpoint {found.free // max(found.size, 1) + 1}" if full else ""
    outcome.lines.append(Line(
        "checkpoints",
        f"{_size(found.size)} each{took}, {count} at once: {_size(needed)} of "
        f"{_size(found.free)} free{by}{'; ' + found.words if found.words else ''}",
        ill=full,
    ))  # fmt: skip
    outcome.values["checkpoint"] = {**vars(found), "at_once": count}


def _as_values(batch: Batch) -> dict[str, Any]:
    return {**vars(batch), "shape": list(batch.shape)}


def _size(count: float) -> str:
    unit, name = (GIB, "GiB") if count >= GIB else (MIB, "MiB")
    return f"{count / unit:.3g} {name}"


def _duration(seconds: float) -> str:
    """Return a time in the unit in which people would say it: "12 ms", "3.4 s", "5 h 20 min"."""
    if seconds < MINUTE:
        number, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
        return f"{number:.0f} {unit}" if number >= TENS else f"{number:.2g} {unit}"
    minutes = round(seconds / MINUTE)
    if minutes < MINUTE:
        return f"{minutes} min"
    hours, rest = divmod(minutes, MINUTE)
    return f"{hours:,} h {rest} min" if hours < DAY else f"{hours:,} h"
