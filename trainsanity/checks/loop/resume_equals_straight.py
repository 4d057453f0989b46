"""TS902 loop.resume_equals_straight."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._resume import LOST, not_finite
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
    """A resumed run equals an uninterrupted one.

    What it checks: the first step after the cut has the same rows, weights, optimizer state,
    learning rate, scheduler step and random states, in a run that went on and in one that a fresh
    process resumed from the checkpoint; and both end with the same weights.

    Why it matters: long runs are resumed.  If a resumed run starts its data from the beginning, it
    trains on some rows twice and on others never; if it loses the optimizer's state or the
    scheduler's, the loss jumps, and the data are blamed for it later.

    How it is measured: the Trainer trains two steps (three where two would end an epoch), saves,
    and trains as many again.  Then the pipeline is built once more in a process of its own, by the
    words after ``trainsanity run``, resumes from that checkpoint and trains to the same step.
    States are compared bit by bit.  Only if the final weights differ is the uninterrupted run
    repeated: the difference between two such runs is the device's own noise, and four times that is
    allowed.  If its losses or weights are not finite, that is a finding, because NaN equals NaN bit
    for bit.  Everything is written to a temporary folder; the Trainer itself loads it.

    How to fix: as the finding says.  Most often it is ``save_only_model``, ``ignore_data_skip``, a
    scheduler without a state, or data that is shuffled without a seed while the pipeline is built.

    Known false alarms: a collator that draws random numbers while batches are read ahead, since the
    Trainer saves after the next batch was drawn.

    References: huggingface/transformers#11323, #17032, #46628, #43718.
    """
    plan, straight, fresh = resumed.plan, resumed.straight, resumed.fresh.trace
    rows = [(k, batch) for k, batches in straight.batches.items() if k >= plan.cut
            for batch in enumerate(batches)]  # fmt: skip
    if fresh is None:
        other_rows, lost, apart = len(rows), list(LOST), "by an unknown amount"
        yield Finding(
            f"the resumed run did not finish: {resumed.fresh.error}",
            observed=resumed.fresh.error,
            expected=f"step {plan.steps}",
            where=f"checkpoint-{plan.cut} with {', '.join(resumed.files) or 'no files'}",
            cause="the checkpoint cannot be loaded, or the pipeline is built differently each time",
            fix="run the training script with resume_from_checkpoint and read its traceback",
        )
    else:
        other_rows = sum(dict(enumerate(fresh.batches.get(k, ()))).get(place) != batch
                         for k, (place, batch) in rows)  # fmt: skip
        lost = [name for name in LOST if straight.moment.get(name) != fresh.moment.get(name)]
        apart = f"by up to {resumed.difference:.3g}"
        found = [
            *not_finite(straight),
            *_rows(plan, straight, fresh),
            *_state(plan, straight, fresh),
        ]
        yield from found
        if not found and not within(resumed.difference, MARGIN * resumed.noise):
            yield Finding(
                f"from equal rows and states the two runs get to other weights: they differ by up "
                f"to {resumed.difference:.3g}, two uninterrupted runs by {resumed.noise:.3g}",
                observed=resumed.difference,
                expected=MARGIN * resumed.noise,
                where=f"the weights after step {plan.steps}",
                cause="a step depends on something that no checkpoint holds",
                fix="look for state in callbacks, losses or modules that is no buffer",
            )
    yield Measured(
        f"resumed after step {plan.cut} in a fresh process: {other_rows} of {len(rows)} "
        f"micro-batches and {len(lost)} of {len(LOST)} states ({', '.join(LOST)}) differ from the "
        f"uninterrupted run's; the weights after step {plan.steps} differ {apart} "
        f"(up to {MARGIN * resumed.noise:.2g} allowed)",
        {
            "micro_batches": other_rows,
            "states": lost,
            "weights": None if fresh is None else resumed.difference,
        },
        {"micro_batches": 0, "states": [], "weights": MARGIN * resumed.noise},
    )


def _rows(plan: Plan, straight: Trace, fresh: Trace) -> Iterator[Finding]:
    """Yield a finding if the resumed run trains on other rows."""
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
        what = "trains on other rows than the uninterrupted run"
        cause = "the order of the rows differs between processes, or each batch is made otherwise"
        fix = "seed whatever shuffles while the pipeline is built; leave the sampler to the Trainer"
    else:
        what = f"trains on the rows of step {known + 1} once more"
        cause = "the rows that were trained on before the cut are not skipped"
        fix = "ignore_data_skip=False, and a sampler that begins each epoch as the first time"
    yield Finding(
        f"after resuming, step {step + 1} {what}",
        observed="other rows" if known is None else f"rows of step {known + 1}",
        expected=f"rows of step {step + 1}",
        where=f"step {step + 1}",
        cause=cause,
        fix=fix,
    )


def _state(plan: Plan, straight: Trace, fresh: Trace) -> Iterator[Finding]:
    """Yield a finding for each state that is not what it was."""
    for name, (what, cause, fix) in LOST.items():
        before, after = straight.moment.get(name), fresh.moment.get(name)
        if before != after:
            yield Finding(
                f"as step {plan.cut + 1} begins in the resumed run, {what}",
                observed=_count(after, before),
                expected=before if isinstance(before, int) else "none differs",
                where=_place(before, after) or name,
                cause=cause,
                fix=fix,
            )


def _count(one: object, other: object) -> object:
    """Return a number as it is, and how many differ of a collection of hashes."""
    if isinstance(one, dict) and isinstance(other, dict):
        return f"{sum(one.get(k) != other.get(k) for k in {*one, *other})} of {len(one)} differ"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return f"{sum(a != b for a, b in zip(one, other, strict=True))} of {len(one)} differ"
    return one if isinstance(one, int) else "others"


def _place(one: object, other: object) -> str:
    """Return the first names whose hashes differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return ", ".join([k for k in {**one, **other} if one.get(k) != other.get(k)][:3])
    return ""
