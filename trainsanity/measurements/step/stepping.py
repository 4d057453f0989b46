"""How often a custom training loop steps its optimizer for one step's micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    micro_batches: int
    steps: int
    moved: bool = True


@measurement(Cost.STEP)
def stepping(pipeline: Pipeline) -> Stepping:
    """Call ``train_step`` once and count the optimizer's steps.

    Raises:
        Skip: a Trainer takes the steps.
    """
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
            pipeline.train_step([dict(given.inputs) for given in batch])
        finally:
            handle.remove()
            pipeline.model.zero_grad()
        moved = hashes(pipeline.model.parameters()) != before
    return Stepping(len(batch), len(steps), moved)
