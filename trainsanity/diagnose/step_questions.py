"""Questions about a log's gradient norms and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from trainsanity.diagnose.case import Case
from trainsanity.diagnose.entries import Entry
from trainsanity.types import Finding, Measured, Skip

Answer = Iterator[Measured | Finding]
Share = Callable[[int], float]

ROUNDING = 1e-9
"""Both rates are the same few double-precision operations; this allows a thousand roundings."""


def clipping(case: Case) -> Answer:
    """Compute how much of the gradient clipping keeps."""
    low, high = _norms(case)
    if not case.clip:
        raise Skip("max_grad_norm is 0: nothing is clipped")
    default = "" if case.max_grad_norm is not None else ", the default,"
    kept = min(case.clip / high, 1.0) if high else 1.0
    least, most = (
        f"{min(case.clip / norm, 1.0):.1%}" if norm else "100.0%" for norm in (high, low)
    )
    share = least if least == most else f"{least} to {most}"
    effect = "; under AdamW the scale divides out, with SGD it does not" if high > case.clip else ""
    yield Measured(
        f"max_grad_norm {case.clip:g}{default} keeps {share} of gradients of norm "
        f"{_between(low, high)}{effect}",
        kept,
    )


def finite(case: Case) -> Answer:
    """Count gradient norms that are not finite."""
    log = case.log
    if not log.norm_count:
        raise Skip("the log has no grad_norm")
    if log.bad_norm is not None:
        hidden = log.bad_norm.loss is not None and math.isfinite(log.bad_norm.loss)
        yield Finding(
            f"{log.bad_norms} of {log.norm_count} gradient norms are not numbers, the first "
            f"({log.bad_norm.grad_norm}) at {case.where(log.bad_norm)}"
            + (f", where the logged loss is {log.bad_norm.loss:g}" if hidden else ""),
            observed=log.bad_norm.grad_norm,
            expected="a number",
            where=case.where(log.bad_norm),
            cause="a loss that is NaN or infinite"
            + (
                ", which logging_nan_inf_filter replaced in the log; a step with such a gradient "
                "leaves NaN in the weights"
                if hidden
                else ""
            )
            + "; with fp16 a few infinite norms are the loss scaler at work",
            fix="go back to the last checkpoint before it; logging_nan_inf_filter=False shows the "
            f"loss, {case.rerun_command('TS503', 'TS604')} judges step 1",
        )
    yield Measured(
        f"{log.norm_count - log.bad_norms} of {log.norm_count} gradient norms are numbers",
        log.norm_count - log.bad_norms,
        log.norm_count,
    )


def reaches(case: Case) -> Answer:
    """Count gradient norms that are zero."""
    low, high = _norms(case)
    log = case.log
    if log.zero_norms:
        every = log.zero_norms == log.norm_count
        yield Finding(
            f"grad_norm is 0 in {log.zero_norms} of {log.norm_count} entries",
            observed=log.zero_norms,
            expected=0,
            where="all entries" if every else "some entries",
            cause="the loss does not reach the trainable weights: a detach, a no_grad, or "
            "checkpointing over frozen inputs"
            if every
            else "batches with nothing to learn from (all labels -100), or a loss of exactly 0",
            fix=f"{case.rerun_command('TS605')} names the parameters without a gradient",
        )
    yield Measured(
        f"{log.zero_norms} of {log.norm_count} gradient norms are 0; finite ones are "
        f"{_between(low, high)}",
        log.zero_norms,
        0,
    )


def _between(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _norms(case: Case) -> tuple[float, float]:
    """Return the lowest and the highest finite gradient norm."""
    if not case.log.norm_count:
        raise Skip("the log has no grad_norm")
    if not case.log.norms[0] <= case.log.norms[1]:
        raise Skip("no gradient norm is a number")
    return case.log.norms


def peak(case: Case) -> Answer:
    """Compute which share of its peak the learning rate has reached."""
    rates = [e for e in case.log.kept if e.learning_rate is not None]
    given, warmup, steps = case.learning_rate, case.warmup, case.max_steps
    planned = given and warmup is not None and steps is not None
    if not rates and not planned:
        raise Skip("the log has no learning_rate")
    if given and warmup is not None and steps is not None and warmup >= steps:
        yield Finding(
            f"the run of {steps} steps never reaches learning_rate {given:g}: "
            f"its warm-up takes {warmup} steps",
            observed=steps,
            expected=f"more than {warmup} steps",
            where=f"warmup_steps = {warmup}, max_steps = {steps}",
            cause="the warm-up is as long as the run",
            fix="lower warmup_steps below the number of optimizer steps",
        )
    if not rates:
        yield Measured(
            f"the run has {steps} steps and {warmup} of warm-up; its log has no learning_rate",
            steps,
            f"more than {warmup} steps",
        )
        return
    highest = max(rates, key=lambda e: e.learning_rate or 0.0)
    top, last = highest.learning_rate or 0.0, rates[-1]
    if top == 0 and len(rates) > 1:
        yield Finding(
            f"the learning rate is 0 in all {len(rates)} entries: nothing moves",
            observed=0.0,
            expected=given or "above 0",
            cause="likely a scheduler that ended, or was built for another number of steps",
            fix=case.rerun_command("TS801", "TS802") + " compares it with its arguments",
        )
    if not given:
        yield Measured(
            f"the highest rate is {top:g}, at {case.where(highest)}; --learning-rate tells what "
            "share of the peak that is",
            top,
        )
        return
    if top > given * (1 + ROUNDING) + highest.rate_unit:
        yield Finding(
            f"the learning rate reaches {top:g} at {case.where(highest)}, above the peak {given:g}",
            observed=top,
            expected=given,
            factor=top / given,
            where=case.where(highest),
            cause="another learning_rate than the one given here, or a scheduler that adds to it",
            fix=case.rerun_command("TS801", "TS802") + " compares it with its arguments",
        )
    comes = f"; the warm-up ends at step {warmup}" if warmup else ""
    share = (last.learning_rate or 0.0) / given
    reached = f"the highest rate is {top:g}, at {case.where(highest)}; " * (highest is not last)
    yield Measured(
        f"{reached}{case.where(last)} is at {share:.2%} of the peak {given:g}{comes}", share
    )


def follows(case: Case) -> Answer:
    """Compare the logged rates with the schedule.

    A log may hold the rate before step k or after it, so anything from share(k - 1) to share(k)
    is right, give or take one unit in the last digit, by which logs are rounded or cut.
    """
    peak_rate, share = case.learning_rate, case.share
    rates = [e for e in case.log.kept if e.learning_rate is not None and e.step is not None]
    if not any(e.learning_rate is not None for e in case.log.kept):
        raise Skip("the log has no learning_rate")
    if not rates:
        raise Skip("the log has no step numbers to compute a rate for")
    if not peak_rate or share is None:
        missing = ("--learning-rate", peak_rate), ("--warmup-steps", case.warmup)
        names = [name for name, value in missing if not value and value != 0]
        raise Skip(f"{' and '.join(names) or 'more'} needed to compute the schedule")
    judged, wrong = 0, []
    for entry in rates:
        allowed = _allowed(entry, peak_rate, share)
        if allowed is None:
            continue
        judged += 1
        low, high = allowed
        rate = entry.learning_rate or 0.0
        if not low <= rate <= high:
            wrong.append((entry, rate, low if rate < low else high))
    if not judged:
        raise Skip("after the warm-up --max-steps is needed to compute the schedule")
    if wrong:
        entry, rate, nearest = wrong[0]
        yield Finding(
            f"{len(wrong)} of {judged} learning rates are not those of the schedule: {rate:g} at "
            f"{case.where(entry)}, where it has {nearest:g}",
            observed=rate,
            expected=nearest,
            factor=rate / nearest if nearest else None,
            where=case.where(entry),
            cause=_other_pace(case, wrong[0], share),
            fix=case.rerun_command("TS801", "TS802")
            + " compares the run's own scheduler with its arguments",
        )
    yield Measured(
        f"{judged - len(wrong)} of {judged} learning rates are those of a {case.schedule_type} "
        f"schedule with {case.warmup} warm-up steps to {peak_rate:g}",
        judged - len(wrong),
        judged,
    )


def _allowed(entry: Entry, peak_rate: float, share: Share) -> tuple[float, float] | None:
    """Return the lowest and the highest rate that the entry may show; None if not known."""
    assert entry.step is not None
    ends = [peak_rate * share(max(k, 0)) for k in (entry.step - 1, entry.step)]
    if not all(map(math.isfinite, ends)):
        return None
    slack = entry.rate_unit + peak_rate * ROUNDING
    return min(ends) - slack, max(ends) + slack


def _other_pace(case: Case, wrong: tuple[Entry, float, float], share: Share) -> str:
    """Return the cause: a scheduler stepped per process or micro-batch, or another one."""
    entry, rate, _ = wrong
    assert entry.step is not None
    paces = {
        f"gradient_accumulation_steps = {case.gradient_accumulation_steps}": (
            case.gradient_accumulation_steps
        ),
        f"world_size = {case.world_size}": case.world_size,
        f"accumulation x processes = {case.together}": case.together,
    }
    for name, pace in paces.items():
        if not pace or pace == 1:
            continue
        ends = [case.learning_rate * share(k * pace) for k in (entry.step - 1, entry.step)]
        slack = entry.rate_unit + case.learning_rate * ROUNDING
        if min(ends) - slack <= rate <= max(ends) + slack:
            return f"likely a scheduler that is stepped {pace} times per step: {name}"
    return (
        "another schedule, peak, warm-up or number of steps than given here, or a scheduler that "
        "is stepped more or less than once per optimizer step"
    )
