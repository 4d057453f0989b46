"""TS902 loop.resume_equals_straight."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from trainsanity.checks.loop._resume import LOST, RENAMED, drawn_ahead, not_finite, states
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.runs.resume import Resumed
from trainsanity.measurements.runs.trace import Plan, Trace
from trainsanity.types import Cost, Finding, Measured, Severity


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

    The Trainer reads a batch ahead: what a collator or a transform draws for it is drawn when the
    checkpoint is saved, and drawn anew by a resumed run.  Where batches differ, their rows are read
    again in both processes with one seed.  Rows that are the same, of which other random numbers
    make another batch, are no finding; what such a run ends with is not compared then.

    Weights that the library's own Trainer saves by other names than it loads them by are a warning.

    Known false alarms: a stream that worker processes read and whose batches are drawn at random.

    References: huggingface/transformers#11323, #17032, #46628, #43718.
    """
    plan, straight, fresh = resumed.plan, resumed.straight, resumed.fresh.trace
    rows = [(k, batch) for k, batches in straight.batches.items() if k >= plan.cut
            for batch in enumerate(batches)]  # fmt: skip
    if fresh is None:
        other_rows, lost, apart = len(rows), list(LOST), "by an unknown amount"
        drawn: set[int] = set()
        anew = False
        yield Finding(
            f"the resumed run did not finish: {resumed.fresh.error}",
            observed=resumed.fresh.error,
            expected=f"step {plan.steps}",
            where=f"checkpoint-{plan.cut} with {', '.join(resumed.files) or 'no files'}",
            cause="the checkpoint cannot be loaded, or the pipeline is built differently each time",
            fix="run the training script with resume_from_checkpoint and read its traceback",
        )
    else:
        drawn = _drawn_anew(resumed, fresh)
        other_rows = sum(dict(enumerate(fresh.batches.get(k, ()))).get(place) != batch
                         for k, (place, batch) in rows if k not in drawn)  # fmt: skip
        lost = [name for name, (one, other) in states(straight, fresh).items() if one != other]
        apart = f"by up to {resumed.difference:.3g}"
        found = [
            *not_finite(straight),
            *_rows(plan, straight, fresh, drawn),
            *_state(plan, straight, fresh, set(resumed.renamed)),
        ]
        yield from found
        anew = bool(drawn) or drawn_ahead(straight, fresh)
        if not found and not anew and not within(resumed.difference, MARGIN * resumed.noise):
            yield Finding(
                f"from equal rows and states the two runs get to other weights: they differ by up "
                f"to {resumed.difference:.3g}, two uninterrupted runs by {resumed.noise:.3g}",
                observed=resumed.difference,
                expected=MARGIN * resumed.noise,
                where=f"the weights after step {plan.steps}",
                cause="a step depends on something that no checkpoint holds",
                fix="look for state in callbacks, losses or modules that is no buffer",
            )
    allowed = f"up to {MARGIN * resumed.noise:.2g} allowed"
    if drawn:
        allowed = f"the batches of {len(drawn)} steps are drawn anew from the same rows"
    elif anew:
        allowed = "for batches that are read ahead random numbers are drawn anew"
    yield Measured(
        f"resumed after step {plan.cut} in a fresh process: {other_rows} of {len(rows)} "
        f"micro-batches and {len(lost)} of {len(LOST)} states ({', '.join(LOST)}) differ from the "
        f"uninterrupted run's; the weights after step {plan.steps} differ {apart} "
        f"({allowed})",
        {
            "micro_batches": other_rows,
            "states": lost,
            "weights": None if fresh is None else resumed.difference,
        },
        {"micro_batches": 0, "states": [], "weights": MARGIN * resumed.noise},
    )


def _drawn_anew(resumed: Resumed, fresh: Trace) -> set[int]:
    """Return the steps whose batches differ and were drawn from the same rows."""
    straight = resumed.straight
    return {
        k
        for k, batches in straight.batches.items()
        if k >= resumed.plan.cut
        and resumed.draws
        and batches != fresh.batches.get(k)
        and _same_rows(straight, fresh, k)
    }


def _same_rows(straight: Trace, fresh: Trace, step: int) -> bool:
    rows = straight.rows.get(step, [])
    return bool(rows) and all(rows) and rows == fresh.rows.get(step)


def _rows(
    plan: Plan, straight: Trace, fresh: Trace, drawn: Collection[int] = ()
) -> Iterator[Finding]:
    """Yield a finding if the resumed run trains on other rows, or on another batch of them."""
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
    wrong = [k for k in after if straight.batches[k] != fresh.batches.get(k) and k not in drawn]
    if not wrong:
        return
    step = wrong[0]
    got = fresh.batches.get(step)
    known = next((k for k, batch in straight.batches.items() if batch == got), None)
    read = fresh.rows.get(step)
    if known is None and read and all(read):
        known = next((k for k, rows in straight.rows.items() if rows == read), None)
    if known == step:
        what = "makes another batch of the same rows than the uninterrupted run"
        cause = "the collator or the dataset depends on something that no checkpoint holds"
        fix = "make the batch of its rows alone, and of random numbers"
    elif known is None:
        what = "trains on other rows than the uninterrupted run"
        cause = "the order of the rows differs between processes, or each batch is made otherwise"
        fix = "seed whatever shuffles while the pipeline is built; leave the sampler to the Trainer"
    else:
        what = f"trains on the rows of step {known + 1} once more"
        cause = "the rows that were trained on before the cut are not skipped"
        fix = "ignore_data_skip=False, and a sampler that begins each epoch as the first time"
    observed = "other rows" if known is None else f"rows of step {known + 1}"
    yield Finding(
        f"after resuming, step {step + 1} {what}",
        observed="another batch" if known == step else observed,
        expected=f"rows of step {step + 1}",
        where=f"step {step + 1}",
        cause=cause,
        fix=fix,
    )


def _state(plan: Plan, straight: Trace, fresh: Trace, renamed: set[str]) -> Iterator[Finding]:
    """Yield a finding for each state that is not what it was.

    Weights that the library itself saves by names that it does not load are a warning: no code of
    the user's has a part in it, and no run that goes through loads them.
    """
    for name, (before, after) in states(straight, fresh).items():
        theirs = name == "weights" and bool(renamed) and _differing(before, after) <= renamed
        what, cause, fix = RENAMED if theirs else LOST[name]
        if before != after:
            yield Finding(
                f"as step {plan.cut + 1} begins in the resumed run, {what}",
                observed=_count(after, before),
                expected=before if isinstance(before, int) else "none differs",
                where=_place(before, after) or name,
                cause=cause,
                fix=fix,
                severity=Severity.WARNING if theirs else Severity.FAILURE,
            )


def _differing(one: dict[str, int] | None, other: dict[str, int] | None) -> set[str]:
    one, other = one or {}, other or {}
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


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
