"""TS908 loop.survives_killed_save."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._resume import LOST, states
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
    """A half-written checkpoint is never resumed silently.

    What it checks: from where a run resumes after a SIGKILL in the middle of saving.  Either the
    half-written checkpoint is not chosen, or loading it raises, or it lacks nothing that the next
    step depends on.

    Why it matters: preempted machines and full disks interrupt runs while they write.
    ``resume_from_checkpoint=True`` takes the checkpoint with the highest number, whole or not;
    nothing reports a missing file, and the run goes on with a new optimizer.

    How it is measured: a fresh process trains, saves a whole checkpoint, trains on, and ends itself
    with SIGKILL as soon as the optimizer's state of the second one is written.
    ``transformers.trainer_utils.get_last_checkpoint`` chooses a checkpoint, and another process
    resumes from it.  The state before its first step is compared bit by bit with that of a run that
    was not killed.

    How to fix: write ``trainer_state.json`` last, as the Trainer does, or into another folder that
    is renamed when it is whole.

    Known false alarms: none known.

    References: ``transformers.Trainer._save_checkpoint``, ``get_last_checkpoint``.
    """
    if interrupted.killed.killed is None:
        why = interrupted.killed.error or "it saved no optimizer"
        raise Skip(f"the run was not interrupted while it saved: {why}")
    files, complete = interrupted.files, interrupted.complete
    half = f"checkpoint-{interrupted.plan.steps - 1}"
    written = f"{len(files)} of {len(complete)} files of {half} were written"
    resumed = interrupted.resumed.trace
    # Where another checkpoint was chosen, or loading this one raised, nothing is lost silently.
    compared = {} if resumed is None else states(interrupted.straight, resumed)
    lost = [name for name, (before, after) in compared.items() if before != after]
    if lost:
        missing = ", ".join(name for name in complete if name not in files)
        yield Finding(
            f"killed while it saved, the run resumes from a half-written checkpoint without an "
            f"error: {', '.join(lost)} differ from those of the run that was not killed "
            f"({written})",
            observed=lost,
            expected=[],
            where=f"{half} without {missing}",
            cause="the checkpoint counts as whole before all of it is written",
            fix="write trainer_state.json last, or rename a finished folder into place",
        )
    yield Measured(
        f"killed while it saved, when {written}: the next run takes "
        f"{interrupted.chosen or 'no checkpoint'} and silently loses {len(lost)} of {len(LOST)} "
        "states",
        {"chosen": interrupted.chosen, "error": interrupted.resumed.error, "lost": lost},
        {"lost": []},
    )
