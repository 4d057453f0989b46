"""TS810 schedule.plateau_waits_for_epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.stepping import Stepping
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS810",
    "schedule.plateau_waits_for_epochs",
    cost=Cost.STEP,
    needs=("lr_scheduler",),
    rules_out="a rate that falls by noise",
)
def plateau_waits_for_epochs(
    pipeline: Pipeline, stepping: Stepping
) -> Iterator[Measured | Finding]:
    """ReduceLROnPlateau is not told of each batch's loss.

    What it checks: whether a custom training loop steps a scheduler that waits for a plateau once
    for each optimizer step, while its patience is shorter than an epoch.

    Why it matters: the losses of single batches go up and down. With a patience of ten, which was
    meant for epochs, ten batches in a row above the luckiest one lower the rate, and after a few
    hundred of them nothing is learnt any more.

    How it is measured: exact. ``train_step`` is called three times, and what the scheduler's
    ``step`` is given is compared with the loss that it returns: the same each time, or the same
    share of it. A running mean and an evaluation's loss are none, nor is a scheduler that is
    stepped now and then. Patience is compared with the optimizer steps that all rows make.

    How to fix: step it once an epoch with the evaluation's loss, or with a mean over many batches::

        # bad
        for batch in loader:
            ...
            scheduler.step(loss)
        # good
        for batch in loader:
            ...
        scheduler.step(evaluate())

    Known false alarms: none known. A patience of an epoch's steps and more passes.

    References: pytorch/pytorch#2849.
    """
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    scheduler = pipeline.lr_scheduler
    if not isinstance(scheduler, ReduceLROnPlateau):
        raise Skip("the scheduler does not wait for a plateau")
    data, args = pipeline.train_dataset, pipeline.args
    if not hasattr(data, "__len__"):
        raise Skip("how many steps an epoch has is not known")
    steps = len(data) // (args.train_batch_size * args.gradient_accumulation_steps)
    if stepping.noise and scheduler.patience < steps:
        yield Finding(
            f"ReduceLROnPlateau is told of the loss of each step, and has a patience of "
            f"{scheduler.patience}; an epoch has {steps} steps",
            observed=stepping.plateau,
            expected=0,
            where="train_step",
            cause="the loss of single batches goes up and down: the rate falls by noise",
            fix="step it once an epoch, with the loss of an evaluation",
        )
    own = f", {'' if stepping.noise else 'not '}the step's loss" if stepping.plateau else ""
    yield Measured(
        f"in one optimizer step ReduceLROnPlateau is told of {stepping.plateau} values{own}; its "
        f"patience is {scheduler.patience}, an epoch has {steps} steps",
        stepping.plateau,
        0,
    )
