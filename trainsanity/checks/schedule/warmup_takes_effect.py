"""TS809 schedule.warmup_takes_effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.schedule import planned_steps
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SAME = 1e-9
"""Relative: a rate beside itself times 1."""


@check(
    "TS809",
    "schedule.warmup_takes_effect",
    cost=Cost.STEP,
    needs=("trainer",),
    rules_out="warm-up",
)
def warmup_takes_effect(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """A warm-up that is asked for lowers the first rates.

    What it checks: where ``warmup_steps`` or ``warmup_ratio`` ask for a warm-up, whether the first
    optimizer step has a lower rate than the one that the optimizer was built with.

    Why it matters: ``lr_scheduler_type="constant"`` and ``"reduce_lr_on_plateau"`` know no warm-up.
    The run begins at its full rate, where
    the moments of Adam rest on a single gradient, and the configuration says something else.

    How it is measured: exact, on the rate of the first recorded step, where the Trainer builds the
    scheduler. Every schedule of
    transformers that has a warm-up begins it below the full rate.

    How to fix: take the schedule that has one, or leave the setting out::

        # bad
        TrainingArguments(lr_scheduler_type="constant", warmup_steps=500)
        # good
        TrainingArguments(lr_scheduler_type="constant_with_warmup", warmup_steps=500)

    Known false alarms: a run that is meant without a warm-up, and whose arguments kept one: hence a
    warning.

    References: d8ahazard/sd_dreambooth_extension#557.
    """
    if pipeline.trainer.lr_scheduler is not None:
        raise Skip("the scheduler was built by the user, who may have read the arguments")
    args = pipeline.args
    warmup = int(args.get_warmup_steps(recording.max_steps or planned_steps(pipeline)))
    if warmup < 1:
        raise Skip("no warm-up is asked for")
    if recording.driven is not None and recording.driven.warms:
        raise Skip(f"{recording.optimizer} has a warm-up of its own")
    used, full = recording.first.learning_rate, recording.peaks[0] if recording.peaks else 0.0
    if used >= full * (1 - SAME) and full > 0:
        kind = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
        yield Finding(
            f"a warm-up of {warmup:,} steps is asked for, and the first step has the full rate of "
            f"{used:.4g}",
            observed=used,
            expected=f"less than {full:.4g}",
            where="warmup_steps",
            cause=f"lr_scheduler_type={kind!r} has no warm-up",
            fix='lr_scheduler_type="constant_with_warmup", or leave warmup_steps out',
            severity=Severity.WARNING,
        )
    yield Measured(
        f"warm-up of {warmup:,} steps; the first has a rate of {used:.4g}, the full one is "
        f"{full:.4g}",
        used,
        full,
    )
