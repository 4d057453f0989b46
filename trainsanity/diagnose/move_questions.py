"""Questions about where a log's losses go: down, nowhere, or away."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from trainsanity.diagnose.case import Case
from trainsanity.diagnose.entries import Entry, Log
from trainsanity.diagnose.expected import MOST_CLASSES, band
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.types import Finding, Measured, Severity, Skip

AT_PEAK = 100
"""Steps at the peak rate after which a loss should have left its own noise.  A last resort, no
closed form: after so many, AdamW has moved each weight by up to 100 rates."""

TAIL = 10
"""Entries whose mean is taken at the end of the log: the noise of one batch is divided by three."""

WORSE = 2
"""Times the first loss that a loss has to reach to have diverged.  A last resort: a model that
forgets all it has learnt goes back to the first loss, and noise lies on both sides of that."""

RESOLVED = 0.1
"""Share of the loss that its noise may hide if it is to be said that it stands still.  A last
resort: a fall that is smaller is no news, and a noise that hides a larger one tells nothing."""

RATE = 1.0
"""Rates above are none that AdamW or SGD trains a transformer with; optimizers that find their own
scale (Prodigy, D-Adaptation) are given 1.  A last resort."""

Mean = tuple[float, float]
"""Mean of some losses, with its standard error."""


def moves(case: Case) -> Iterator[Measured | Finding]:
    """Judge whether the loss moves, and where, given how far the learning rate has come."""
    log = case.log
    if log.count < 3 or not log.losses[0] <= log.losses[1]:
        raise Skip("fewer than three losses that are numbers")
    tail = _tail(log)
    before, after = _mean(log.first[:tail]), _mean(list(log.last)[-tail:])
    if not math.isfinite(before[0] + after[0]):
        raise Skip("the losses at one end of the log are not numbers")
    where, done = case.where(log.last[-1]), case.steps_at_peak
    path = f"the loss goes from {before[0]:.4g} to {after[0]:.4g}"
    rate = "the peak learning rate" if case.learning_rate else "the highest rate in the log"
    progress = "how far the learning rate has come is not known"
    away = _diverged(case, after, tail)
    still = not away and abs(after[0] - before[0]) <= STANDARD_ERRORS * math.hypot(
        before[1], after[1]
    )
    if done is not None:
        progress = f"up to {where} the run amounts to {done:.2g} steps at {rate}"
        if done < AT_PEAK and still:
            progress += "; little movement is expected yet"
    knows_nothing = _still_uninformed(case, after)
    found = (
        _constant(case, where)
        or away
        or _untaught(case, path, progress, after, where)
        or _rising(case, path, before, after)
        or _above_the_first(case, after)
        or _high_from_the_start(case)
        or (_standing(case, path, progress, (before, after), where) if still else None)
    )
    if found is not None:
        yield found
    yield Measured(f"{path}; {progress}", after[0], knows_nothing)


def diverged(case: Case) -> bool:
    """Return whether the loss has left its first value for far more."""
    after = _mean(list(case.log.last)[-_tail(case.log) :])
    return bool(_diverged(case, after, _tail(case.log)) or _above_the_first(case, after))


def _tail(log: Log) -> int:
    """Return the number of entries that stand for an end of the log."""
    return min(TAIL, log.count // 2)


def _constant(case: Case, where: str) -> Finding | None:
    log = case.log
    if log.losses[0] != log.losses[1]:
        return None
    return Finding(
        f"the loss is {log.losses[0]:g} in all {log.count} entries",
        observed=log.losses[0],
        expected="a loss that changes from batch to batch",
        where=where,
        cause="logits that do not depend on the rows, a constant in compute_loss, or a loss "
        "that is NaN and hidden by logging_nan_inf_filter",
        fix=f"{case.rerun_command('TS403', 'TS503', 'TS605', 'TS7')} tells which",
    )


def _diverged(case: Case, after: Mean, tail: int) -> Finding | None:
    """Return the finding if the loss ends far above that of a model that knows nothing.

    That is log C and a little more; where C is not known, log of more classes than there are.
    """
    first = next((e for e in case.log.first if math.isfinite(e.loss or math.nan)), None)
    if first is None or first.loss is None or first.loss <= 0:
        return None
    start = first.loss
    ceiling = math.log(MOST_CLASSES)
    if case.num_labels == 1:  # a regression's loss has the scale of its labels, and its noise
        losses = [e.loss for e in case.log.first[:3] if math.isfinite(e.loss or math.nan)]
        ceiling = start = max(loss for loss in losses if loss is not None)
    elif case.num_labels:
        ceiling = band(case.num_labels, case.hidden_size, case.rows)[1]
    ends = [e.loss for e in list(case.log.last)[-tail:] if e.loss is not None]
    ends = [loss for loss in ends if math.isfinite(loss)]
    most = max(ceiling, WORSE * start)
    sure = len(ends) > 2 and after[0] - STANDARD_ERRORS * after[1] > most and min(ends) > start
    # Steps that differ by orders of magnitude have a large error, and each of them is enough.
    if not (sure or min(ends) > most):
        return None
    rate = case.learning_rate or max((e.learning_rate or 0.0 for e in case.log.kept), default=0.0)
    used = f" ({rate:g})" if rate else ""
    return Finding(
        f"the loss diverges: {start:.4g} at {case.where(first)}, {after[0]:.4g} on average in the "
        f"last {len(ends)} entries, {after[0] / start:.3g} times as much",
        observed=after[0],
        expected=f"at most {max(ceiling, start):.4g}, that of a model that knows nothing",
        where=case.where(case.log.last[-1]),
        cause=f"likely a learning rate{used} that is far too high for this model and optimizer, or "
        "gradients that are not divided by the accumulation under an optimizer without "
        "normalization, as SGD",
        fix="lower learning_rate by factors of 10 until the loss falls; "
        + case.rerun_command("TS502", "TS6", "TS8")
        + " judges step 1: the scale of the gradient and the rate",
    )


def _high_from_the_start(case: Case) -> Finding | None:
    """Return the finding if a run that had diverged before its first entry may be in the log."""
    ceiling, lowest = math.log(MOST_CLASSES), case.log.losses[0]
    rate = case.learning_rate or max((e.learning_rate or 0.0 for e in case.log.kept), default=0.0)
    if case.num_labels is not None or lowest <= ceiling or rate <= RATE:
        return None
    return Finding(
        f"no logged loss is below {lowest:.4g}, at a learning rate of up to {rate:g}: even of "
        f"{MOST_CLASSES:,} classes a cross entropy that knows nothing is {ceiling:.4g}",
        observed=lowest,
        expected=f"at most {ceiling:.4g}, if it is a cross entropy",
        where=case.where(case.log.first[0]),
        cause="if it is a cross entropy, the run diverged before its first entry",
        fix="lower learning_rate by factors of 10 until the loss falls; --num-labels 1 says that "
        "this is a regression, whose loss has the scale of its labels",
        severity=Severity.WARNING,
    )


def _untaught(case: Case, path: str, progress: str, after: Mean, where: str) -> Finding | None:
    done, knows_nothing = case.steps_at_peak, _still_uninformed(case, after)
    if done is None or done < AT_PEAK or knows_nothing is None:
        return None
    return Finding(
        f"{path}, still that of a head that knows nothing, although {progress}",
        observed=after[0],
        expected=f"below log {case.num_labels} = {knows_nothing:.4g}",
        where=where,
        cause="weights that do not move (frozen, not in the optimizer, or bfloat16 at this "
        "rate), labels that say nothing, or a rate that is far too high",
        fix=f"{case.rerun_command('TS605', 'TS7')} tells whether the weights move",
    )


def _rising(case: Case, path: str, before: Mean, after: Mean) -> Finding | None:
    """Return the warning if the loss rises beyond its noise, to more than that of a fair guess.

    Policies start at a loss near 0, which rises with their distance from the reference: below log
    2, or with a mean that is not clearly above 0, a rise means nothing.
    """
    noise = [STANDARD_ERRORS * error for _, error in (before, after)]
    if case.log.count < 2 * TAIL or before[0] <= noise[0]:
        return None
    if not after[0] - noise[1] > max(before[0] + noise[0], math.log(2)):
        return None
    return Finding(
        f"{path}: it rises by more than its noise",
        observed=after[0],
        expected=f"at most {before[0] + noise[0]:.4g}",
        where=case.where(case.log.last[-1]),
        cause="likely a learning rate that is too high, or rows that get harder",
        fix="lower learning_rate by a factor of 10 and compare; "
        + case.rerun_command("TS6", "TS8")
        + " judges the gradient and the rate of step 1",
        severity=Severity.WARNING,
    )


def _above_the_first(case: Case, after: Mean) -> Finding | None:
    """Return the warning if the loss leaves its first value, and does not come back to it.

    A run that is lost within a few steps has no start to take a mean of, and may fall again while
    the rate does.
    """
    kept = [e for e in case.log.kept if math.isfinite(e.loss or math.nan)]
    first, later = next(iter(kept), None), [e.loss or 0.0 for e in kept[1:]]
    start = 0.0 if first is None else first.loss or 0.0
    # Below log 2 a first loss is a policy's, or of a batch that was easy by chance.
    if first is None or start < math.log(2) or case.num_labels == 1 or len(later) < 3:
        return None
    if not (min(later) > WORSE * start and statistics.median(later) > WORSE**2 * start):
        return None
    return Finding(
        f"the loss rises: {start:.4g} at {case.where(first)}, and {min(later):.4g} to "
        f"{max(later):.4g} after it",
        observed=after[0],
        expected=f"at most {start:.4g}",
        where=case.where(case.log.last[-1]),
        cause="likely a learning rate that is far too high"
        + ("" if case.num_labels else "; --num-labels tells what a model that knows nothing has"),
        fix="lower learning_rate by factors of 10 until the loss falls; "
        + case.rerun_command("TS502", "TS6", "TS8")
        + " judges the gradient and the rate of step 1",
        severity=Severity.WARNING,
    )


def _standing(
    case: Case, path: str, progress: str, ends: tuple[Mean, Mean], where: str
) -> Finding | None:
    """Return the warning if the loss has stayed within its noise for long enough to leave it."""
    step = case.step_of(case.log.last[-1])
    done = case.steps_at_peak if case.steps_at_peak is not None else step
    if done is None or done < AT_PEAK or case.log.count < 2 * TAIL:
        return None
    # A policy's loss is near 0 all the time, and lost in its noise.
    before, after = ends
    if STANDARD_ERRORS * math.hypot(before[1], after[1]) > RESOLVED * before[0]:
        return None
    return Finding(
        f"{path}: it stands still within its noise, although {progress}"
        if case.steps_at_peak is not None
        else f"{path}: it stands still within its noise for {done} steps",
        observed=after[0],
        expected="a loss that falls",
        where=where,
        cause="weights that do not move (frozen, not in the optimizer, or bfloat16 at this rate), "
        "labels that say nothing, or a model that has nothing more to learn from these rows",
        fix=f"{case.rerun_command('TS605', 'TS7')} tells whether the weights move",
        severity=Severity.WARNING,
    )


def _still_uninformed(case: Case, after: tuple[float, float]) -> float | None:
    """Return log C if the loss is within the noise of it or somewhat above; else None."""
    classes, log = case.num_labels, case.log
    if not classes or classes < 2 or log.count < 2 * TAIL:
        return None
    floor = math.log(classes)
    if not after[0] <= band(classes, case.hidden_size, case.rows)[1]:
        return None
    return floor if after[0] >= floor - STANDARD_ERRORS * after[1] else None


def _mean(entries: list[Entry]) -> tuple[float, float]:
    """Return mean and standard error of the finite losses."""
    losses = [e.loss for e in entries if e.loss is not None and math.isfinite(e.loss)]
    if not losses:
        return math.nan, math.nan
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return statistics.fmean(losses), error
