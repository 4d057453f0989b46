"""How often a custom training loop steps its optimizer for one step's micro-batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

AGAIN = 2
"""More steps in which a scheduler is watched: what it is told is a line through two points."""

CLOSE = 1e-5
"""Relative, between a loss and the same loss as a number: a mean in float32 is right to 1e-6."""


@dataclass(frozen=True)
class Stepping:
    """One call of ``train_step``.

    Attributes:
        micro_batches: how many it was given.
        steps: how often the optimizer stepped.
        moved: the weights are others afterwards.
        plateau: how often a scheduler that waits for a plateau was told of a value.
        noise: what it was told in each of a few calls was the loss of that step, times a number.
        again: a step was taken by the gradients of the one before.
        anew: what steps is made in each call, has moments afterwards, and takes no other step.
    """

    micro_batches: int
    steps: int
    moved: bool = True
    anew: bool = False
    plateau: int = 0
    noise: bool = False
    again: bool = False


@measurement(Cost.STEP)
def stepping(pipeline: Pipeline) -> Stepping:
    """Call ``train_step`` once and count the optimizer's steps.

    Raises:
        Skip: a Trainer takes the steps.
    """
    if pipeline.captured is not None and pipeline.captured.renewed:
        return Stepping(len(pipeline.captured.first.passes), 1, anew=True)
    if pipeline.train_step is None:
        raise Skip("a Trainer takes one step for gradient_accumulation_steps micro-batches")
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    steps: list[Any] = []

    def note(*_: Any) -> None:
        grads = (p.grad for p in pipeline.model.parameters() if p.grad is not None)
        steps.append(hashes(itertools.islice(grads, 1)))

    with preserved(pipeline, weights=True), quiet(pipeline):
        batch = next(drawn(pipeline, 1)).micro_batches
        pipeline.model.zero_grad()
        before = hashes(pipeline.model.parameters())
        handle = optimizer.register_step_pre_hook(note)
        try:
            with _plateaus(pipeline.lr_scheduler) as told:
                loss = pipeline.train_step([dict(given.inputs) for given in batch])
        finally:
            handle.remove()
            pipeline.model.zero_grad()
        moved = hashes(pipeline.model.parameters()) != before
        noise = bool(told) and _told_of_steps(pipeline, float(told[-1]) / (float(loss) or math.nan))
        anew = moved and not steps and _made_anew(pipeline)
    again = any(a == b for a, b in itertools.pairwise(steps))
    return Stepping(len(batch), len(steps), moved, anew, len(told), noise, again)


def _told_of_steps(pipeline: Pipeline, share: float) -> bool:
    """Return whether the next steps' own losses are told, too, times the same number.

    A running mean, or the loss of rows held out, has another share of each; a scheduler that is
    stepped now and then is told nothing. Weights are the caller's to put back.

    Args:
        pipeline: a loop whose scheduler waits for a plateau.
        share: of the first step's loss, what it was told.
    """
    assert pipeline.train_step is not None
    for batch in drawn(pipeline, AGAIN):
        with _plateaus(pipeline.lr_scheduler) as told:
            loss = pipeline.train_step([dict(given.inputs) for given in batch])
        if not told or not math.isclose(float(told[-1]), share * float(loss), rel_tol=CLOSE):
            return False
    return True


@contextmanager
def _plateaus(scheduler: Any) -> Iterator[list[Any]]:
    """Note the values that a scheduler which waits for a plateau is given in the block."""
    import torch

    told: list[Any] = []
    if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        yield told
        return
    own = scheduler.step

    def step(metrics: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(metrics)
        return own(metrics, *args, **kwargs)

    vars(scheduler)["step"] = step
    try:
        yield told
    finally:
        del vars(scheduler)["step"]


def _made_anew(pipeline: Pipeline) -> bool:
    """Return whether a second call of ``train_step`` steps by optimizers that are made in it.

    The first call may make one that is kept. Weights are the caller's to put back.
    """
    import torch
    from torch.optim import optimizer as hooks

    made: list[Any] = []
    stepped: list[Any] = []
    kind: Any = torch.optim.Optimizer
    original = kind.__init__

    def init(one: Any, *args: Any, **kwargs: Any) -> None:
        original(one, *args, **kwargs)
        made.append(one)

    handle = hooks.register_optimizer_step_pre_hook(lambda one, *_: stepped.append(one))
    assert pipeline.train_step is not None
    kind.__init__ = init
    try:
        for batch in drawn(pipeline, 2):
            made.clear()
            stepped.clear()
            pipeline.train_step([dict(given.inputs) for given in batch])
    finally:
        kind.__init__ = original
        handle.remove()
        pipeline.model.zero_grad()
    anew = {id(one) for one in made}
    once = len({id(one) for one in stepped}) == len(stepped)  # several steps are an inner loop
    return bool(stepped) and once and all(id(one) in anew and one.state for one in stepped)
