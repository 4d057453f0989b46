"""TS908 loop.survives_killed_save."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._resume import LOST
from trainsanity.engine.registry import check
from trainsanity.measurements.runs.resume import Interrupted
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS908",
    "loop.survives_killed_save",
    cost=Cost.RUN,
    needs=("trainer",),
    requires=("loop.resume_equals_straight",),
    rules_out="resuming",
)
def survives_killed_save(interrupted: Interrupted) -> Iterator[Measured | Finding]:
    """A run that is killed while it saves does not silently go on from half a checkpoint.

    What it checks: what a run resumes from, after a SIGKILL in the middle of saving: either the
    half-written checkpoint is passed over, or loading it fails aloud, or it lacks nothing that the
    next step depends on.

    Why it matters: preempted machines and full disks interrupt runs where it takes longest, while
    they write.  ``resume_from_checkpoint=True`` takes the checkpoint with the highest number,
    whole or not; what is missing in it is not missed, and the run goes on with a new optimizer.

    How it is measured: a fresh process trains, saves a whole checkpoint, trains on, and ends itself
    with SIGKILL as soon as the optimizer's state of the second one is written.
    ``transformers.trainer_utils.get_last_checkpoint`` says which is next, and another process
    resumes from it.  What its first step finds is compared by bits with a run that was not killed.

    How to fix: write ``trainer_state.json`` last, as the Trainer does, or into another folder that
    is renamed when it is whole.

    Known false alarms: none known.

    References: ``transformers.Trainer._save_checkpoint``, ``get_last_checkpoint``.
    """
    seen = interrupted
    if seen.killed.killed is None:
        raise Skip(f"the run was not interrupted while it saved: {_how(seen)}")
    half = f"checkpoint-{seen.plan.steps - 1}"
    told = f"{len(seen.files)} of {len(seen.complete)} files of {half} were written"
    missing = [name for name in seen.complete if name not in seen.files]
    going_on = seen.resumed.trace
    if going_on is not None:
        whole = seen.straight.moment
        lost = [name for name in LOST if whole.get(name) != going_on.moment.get(name)]
        if lost:
            yield Finding(
                f"killed while it saved, the run resumes from half a checkpoint without a word: "
                f"{', '.join(lost)} are not those of the run that was not killed ({told})",
                observed=lost,
                expected=[],
                where=f"{half} without {', '.join(missing)}",
                cause="the checkpoint counts as whole before all of it is written",
                fix="write trainer_state.json last, or rename a finished folder into place",
            )
    if seen.chosen != half:
        then = f"{seen.chosen or 'none'} is taken instead"
    elif going_on is None:
        then = f"resuming from it fails aloud: {seen.resumed.error}"
    else:
        then = "resuming from it loses nothing"
    yield Measured(f"killed while it saved ({told}), {then}", seen.files, seen.complete)


def _how(seen: Interrupted) -> str:
    return seen.killed.error or "it saved no optimizer"
