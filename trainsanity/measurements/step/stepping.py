"""How often a custom training loop steps its optimizer for one step's micro-batches."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Stepping:
    """One call of ``train_step``.

    Attributes:
        micro_batches: how many it was given.
        steps: how often the optimizer stepped.
        moved: the weights are others afterwards.
        plateau: how often a scheduler that waits for a plateau was told of a value.
        anew: what steps is made in each call, and has moments afterwards.
    """

    micro_batches: int
    steps: int
    moved: bool = True
    anew: bool = False
    plateau: int = 0


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
    steps: list[None] = []
    with preserved(pipeline, weights=True), quiet(pipeline):
        batch = next(drawn(pipeline, 1)).micro_batches
        pipeline.model.zero_grad()
        before = hashes(pipeline.model.parameters())
        handle = optimizer.register_step_pre_hook(lambda *_: steps.append(None))
        try:
            with _plateaus(pipeline.lr_scheduler) as told:
                pipeline.train_step([dict(given.inputs) for given in batch])
        finally:
            handle.remove()
            pipeline.model.zero_grad()
        moved = hashes(pipeline.model.parameters()) != before
        anew = moved and not steps and _made_anew(pipeline)
    return Stepping(len(batch), len(steps), moved, anew, len(told))


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
    return bool(stepped) and all(id(one) in anew and one.state for one in stepped)
