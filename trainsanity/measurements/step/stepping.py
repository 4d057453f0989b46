"""How often a custom training loop steps its optimizer for one step's micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
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
        backwards: how many micro-batches' worth of backward passes had run before each step.
    """

    micro_batches: int
    steps: int
    backwards: tuple[int, ...] = ()


@measurement(Cost.STEP)
def stepping(pipeline: Pipeline) -> Stepping:
    """Call ``train_step`` once and count the optimizer's steps.

    Raises:
        Skip: a Trainer takes the steps.
    """
    import torch

    if pipeline.train_step is None:
        raise Skip("a Trainer takes one step for gradient_accumulation_steps micro-batches")
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    passes, seen = [0], []
    backward = torch.autograd.backward

    def counting(*args: Any, **kwargs: Any) -> Any:
        passes[0] += 1
        return backward(*args, **kwargs)

    with preserved(pipeline, weights=True), quiet(pipeline):
        batch = next(drawn(pipeline, 1)).micro_batches
        pipeline.model.zero_grad()
        handle = optimizer.register_step_pre_hook(lambda *_: seen.append(passes[0]))
        torch.autograd.backward = counting
        try:
            pipeline.train_step([dict(given.inputs) for given in batch])
        finally:
            torch.autograd.backward = backward
            handle.remove()
            pipeline.model.zero_grad()
    return Stepping(len(batch), len(seen), tuple(seen))
