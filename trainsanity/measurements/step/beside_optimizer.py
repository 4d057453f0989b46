"""Where a custom training loop moves the weights beside its optimizer's step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet
from trainsanity.measurements.step.sampling import sample
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Moved:
    """Movement of the weights in one call of ``train_step`` whose optimizer has a rate of 0.

    Attributes:
        names: of the parameters that moved and have a gradient.
        size: 2-norm of the movement, over a sample of each.
        cosine: of the movement and the gradient of those; NaN where nothing moved.
    """

    names: list[str] = field(default_factory=list)
    size: float = 0.0
    cosine: float = math.nan


@measurement(Cost.STEP)
def beside_optimizer(pipeline: Pipeline) -> Moved:
    """Call ``train_step`` once with rates of 0, and hold what moves against the gradient."""
    if pipeline.train_step is None or pipeline.captured is not None or pipeline.other_processes:
        return Moved()
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    named = dict(pipeline.model.named_parameters())
    gradients: dict[str, Any] = {}
    rates: list[Any] = []

    def before(*_: Any) -> None:
        gradients.update({n: sample(p.grad) for n, p in named.items() if p.grad is not None})
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0 * group["lr"]

    def after(*_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    with preserved(pipeline, weights=True), quiet(pipeline):
        batch = next(drawn(pipeline, 1)).micro_batches
        pipeline.model.zero_grad()
        begun = {name: sample(p) for name, p in named.items()}
        handles = [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]
        try:
            pipeline.train_step([dict(given.inputs) for given in batch])
        except Exception:  # a loop that counts its steps may refuse another first one
            return Moved()
        finally:
            for handle in handles:
                handle.remove()
            pipeline.model.zero_grad()
        moves = {n: sample(named[n]).double() - begun[n].double() for n in gradients}
    moves = {name: move for name, move in moves.items() if bool(move.any())}
    if not moves:
        return Moved()
    slope = sum(float(move @ gradients[name].double()) for name, move in moves.items())
    size = math.sqrt(sum(float(move.norm()) ** 2 for move in moves.values()))
    length = math.sqrt(sum(float(gradients[name].double().norm()) ** 2 for name in moves))
    return Moved([*moves], size, slope / (size * length) if size * length else math.nan)
