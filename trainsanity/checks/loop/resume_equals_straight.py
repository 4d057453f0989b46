"""TS902 loop.resume_equals_straight."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._resume import LOST
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.runs.resume import Resumed
from trainsanity.measurements.runs.trace import Plan, Trace
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS902",
    "loop.resume_equals_straight",
    cost=Cost.RUN,
    needs=("trainer",),
    rules_out="resuming",
)
def resume_equals_straight(resumed: Resumed) -> Iterator[Measured | Finding]:
    """A run that is cut, saved and resumed equals the run that was never cut.

    What it checks: the first step after the cut finds the same rows, weights, optimizer state,
    learning rate, schedule and random numbers, in a run that went on and in one that a fresh
    process resumed from the checkpoint; and both end with the same weights.

    Why it matters: long runs are resumed.  One that starts its data from the beginning trains on
    some rows twice and on others never; one that forgets the optimizer or the schedule takes a
    jump that is later put down to the data.

    How it is measured: the Trainer trains two steps (three where two would end an epoch), saves,
    and trains as many again.  Then the pipeline is built once more in a process of its own, by the
    words after ``trainsanity run``, resumes from that checkpoint and trains to the same step.  All
    is compared by its bits.  Only where the final weights differ is the straight run repeated: what
    two straight runs differ by is the device's own noise, and four times that is allowed.  A
    straight run whose losses or weights are no numbers is a finding: NaN equals NaN bit for bit.
    Everything is written to a temporary folder; the Trainer itself loads it.

    How to fix: as the finding says.  Most often it is ``save_only_model``, ``ignore_data_skip``, a
    scheduler without a state, or data that is shuffled without a seed while the pipeline is built.

    Known false alarms: a collator that draws random numbers while batches are read ahead: the
    Trainer saves after the next batch was drawn.

    References: huggingface/transformers#11323, #17032, #46628, #43718.
    """
    plan, fresh = resumed.plan, resumed.fresh.trace
    if fresh is None:
        yield Finding(
            f"the resumed run came to no end: {resumed.fresh.error}",
            observed=resumed.fresh.error,
            expected=f"step {plan.steps}",
            where=f"checkpoint-{plan.cut} with {', '.join(resumed.files) or 'no files'}",
            cause="the checkpoint cannot be loaded, or the pipeline is built differently each time",
            fix="run the training script with resume_from_checkpoint and read its traceback",
        )
    else:
        found = [
            *not_finite(resumed.straight),
            *_rows(plan, resumed.straight, fresh),
            *_state(plan, resumed.straight, fresh),
        ]
        yield from found
        if not found and not within(resumed.difference, MARGIN * resumed.noise):
            yield Finding(
                f"the two runs see the same and end apart: their weights differ by up to "
                f"{resumed.difference:.3g}, two straight runs by {resumed.noise:.3g}",
                observed=resumed.difference,
                expected=MARGIN * resumed.noise,
                where=f"the weights after step {plan.steps}",
                cause="a step depends on something that no checkpoint holds",
                fix="look for state in callbacks, losses or modules that is no buffer",
            )
    rows = sum(len(batch) for step, batch in resumed.straight.batches.items() if step >= plan.cut)
    same = "bit for bit" if not resumed.difference else f"to {resumed.difference:.3g}, within noise"
    yield Measured(
        f"{plan.cut} steps, a checkpoint and a fresh process: the next {rows} micro-batches, "
        f"{', '.join(LOST)} are those of the straight run, and the weights after step "
        f"{plan.steps} {same}",
        0.0,
        0.0,
    )


def not_finite(straight: Trace) -> Iterator[Finding]:
    """What loss.finite says of the first steps, of those that a run takes after them."""
    if straight.broken:
        yield Finding(
            f"{straight.broken}: that two such runs are equal says nothing",
            observed=straight.broken,
            expected="numbers",
            where="the straight run",
            cause="an operation whose value or derivative is not finite at these rows or weights",
            fix="find the operation with torch.autograd.detect_anomaly",
        )


def _rows(plan: Plan, straight: Trace, fresh: Trace) -> Iterator[Finding]:
    begun = min(fresh.batches, default=0)
    if begun != plan.cut:
        yield Finding(
            f"the resumed run begins at step {begun + 1} and not at step {plan.cut + 1}",
            observed=begun + 1,
            expected=plan.cut + 1,
            where="trainer_state.json",
            cause="the Trainer's own state is not restored",
            fix="pass resume_from_checkpoint to train(), and leave trainer_state.json in place",
        )
        return
    after = [k for k in straight.batches if k >= plan.cut]
    wrong = [k for k in after if straight.batches[k] != fresh.batches.get(k)]
    if not wrong:
        return
    step = wrong[0]
    got = fresh.batches.get(step)
    known = next((k for k, batch in straight.batches.items() if batch == got), None)
    if known is None:
        said = "trains on other rows than the run that was not cut"
        cause = "the order of the rows is drawn anew in each process"
        fix = "seed whatever shuffles while the pipeline is built; leave the sampler to the Trainer"
    else:
        said = f"trains on the rows of step {known + 1} once more"
        cause = "the rows that were trained on before the cut are not skipped"
        fix = "ignore_data_skip=False, and a sampler that begins each epoch as the first time"
    yield Finding(
        f"after resuming, step {step + 1} {said}",
        observed="other rows" if known is None else f"rows of step {known + 1}",
        expected=f"rows of step {step + 1}",
        where=f"step {step + 1}",
        cause=cause,
        fix=fix,
    )


def _state(plan: Plan, straight: Trace, fresh: Trace) -> Iterator[Finding]:
    for name, (said, cause, fix) in LOST.items():
        before, after = straight.moment.get(name), fresh.moment.get(name)
        if before != after:
            yield Finding(
                f"as step {plan.cut + 1} begins in the resumed run, {said}",
                observed=_count(after, before),
                expected=before if isinstance(before, int) else "none differs",
                where=_place(before, after) or name,
                cause=cause,
                fix=fix,
            )


def _count(one: object, other: object) -> object:
    """A number as it is; of many hashes only how many there are that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return f"{sum(one.get(k) != other.get(k) for k in {*one, *other})} of {len(one)} differ"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return f"{sum(a != b for a, b in zip(one, other, strict=True))} of {len(one)} differ"
    return one if isinstance(one, int) else "others"


def _place(one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        return ", ".join([k for k in {**one, **other} if one.get(k) != other.get(k)][:3])
    return ""
