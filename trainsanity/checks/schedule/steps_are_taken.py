"""TS803 schedule.steps_are_taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.step.alone import NoStep
from trainsanity.measurements.step.schedule import steps_of_an_epoch
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

EPOCHS = 3.0
"""What ``TrainingArguments`` has where nobody asks for a number of epochs."""


@check(
    "TS803",
    "schedule.steps_are_taken",
    cost=Cost.STEP,
    needs=("trainer",),
    rules_out="gradient accumulation",
)
def steps_are_taken(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """An epoch of the data gives at least one optimizer step.

    What it checks: that the Trainer takes an optimizer step before its first epoch ends.

    Why it matters: with ``max_steps`` a run without steps goes through its data for ever, the
    losses look like training, and no weight moves.  With ``num_train_epochs`` it ends as it began.

    How it is measured: the recorded steps are the Trainer's own.  It steps after
    ``gradient_accumulation_steps`` micro-batches, and after the last of an epoch if it knows how
    many there are.  A run that reaches the end of its first epoch with no step is stopped.  Where
    ``max_steps`` and a number of epochs are both set, and the steps are fewer than those of one
    epoch, or of the part of one that is asked for, that is a warning; the Trainer's own loader says
    how many an epoch has.

    How to fix: as the finding says, by what is missing: rows, or a last step in the epoch.

    Known false alarms: none; a run whose first epoch is to end without a step would be one.

    References: unslothai/unsloth#594; huggingface/transformers#2995; #37777, mended by #37923 in
    4.52: the last micro-batches of an epoch are counted in rows, not in micro-batches.
    """
    yield from _cut_short(pipeline)
    try:
        first = Session.of(pipeline).measurements.get("recording").first
    except NoStep as none:
        steps, micro_batches = 0, none.micro_batches
        cause, fix = _what_is_missing(pipeline, none.micro_batches)
        yield Finding(
            f"{none}; gradient_accumulation_steps = {pipeline.args.gradient_accumulation_steps}: "
            "no weight ever moves",
            observed=0,
            expected=1,
            where=f"{none.micro_batches} micro-batches of "
            f"{pipeline.args.per_device_train_batch_size} rows",
            cause=cause,
            fix=fix,
        )
    else:
        # Each process has micro-batches of its own; those of one are counted.
        own = first.micro_steps[0].rank
        steps, micro_batches = 1, sum(micro.rank == own for micro in first.micro_steps)
    yield Measured(
        f"optimizer steps taken after {micro_batches} micro-batches of the first epoch: {steps}",
        steps,
        1,
    )


def _what_is_missing(pipeline: Pipeline, micro_batches: int) -> tuple[str, str]:
    """Return cause and fix of an epoch without a step."""
    if not micro_batches:
        return (
            "the run has no epoch, or its DataLoader no batch",
            "num_train_epochs or max_steps above zero, and a sampler that draws rows",
        )
    if not hasattr(pipeline.train_dataset, "__len__"):
        return (
            "the IterableDataset ends before one step is full, and has no length by which the "
            "Trainer would know its last batch",
            f"gradient_accumulation_steps of at most {micro_batches}, or a dataset that repeats",
        )
    return (
        "the loop does not count an epoch's last micro-batches right; transformers before 4.52 "
        "does not, and an overridden get_batch_samples may not",
        "transformers 4.52 or newer with its own get_batch_samples, or "
        f"gradient_accumulation_steps of at most {micro_batches}",
    )


def _cut_short(pipeline: Pipeline) -> Iterator[Finding]:
    """Warn where both steps and epochs are asked for, and the steps end before one epoch does."""
    args, data = pipeline.args, pipeline.train_dataset
    most, epochs = getattr(args, "max_steps", -1), getattr(args, "num_train_epochs", EPOCHS)
    if most <= 0 or epochs == EPOCHS or not hasattr(data, "__len__"):
        return
    try:
        whole = steps_of_an_epoch(pipeline)
    except TypeError:
        return  # a loader without a length
    # Half an epoch may be what both ask for.
    if most < math.floor(min(1, epochs) * whole):
        yield Finding(
            f"max_steps = {most} ends the run within its first epoch of {whole:,} steps, and "
            f"num_train_epochs = {epochs:g} is not read",
            observed=most,
            expected=math.ceil(epochs * whole),
            where=f"max_steps = {most}",
            cause="max_steps overrides the epochs, and may be left from a trial",
            fix="leave max_steps out, or the epochs",
            severity=Severity.WARNING,
        )
