"""In which direction a plateau scheduler follows the metric that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

KIND = "reduce_lr_on_plateau"
"""What transformers calls the scheduler."""


@dataclass(frozen=True)
class Plateau:
    """A plateau scheduler and its metric.

    Attributes:
        metric: what the Trainer gives it.
        mode: ``min`` or ``max``, the scheduler's own.
        better: which of the two ``greater_is_better`` asks for.
    """

    metric: str
    mode: str
    better: str


@measurement(Cost.STATIC)
def plateau(pipeline: Pipeline) -> Plateau:
    """Read mode and direction from the arguments, or from the scheduler that was given.

    Raises:
        Skip: there is no Trainer, or its scheduler is another one.
    """
    import torch

    trainer, args = pipeline.trainer, pipeline.args
    if trainer is None:
        raise Skip("a custom training loop steps its scheduler itself")
    given = getattr(trainer, "lr_scheduler", None)
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if isinstance(given, torch.optim.lr_scheduler.ReduceLROnPlateau):
        mode = given.mode
        if kind != KIND:
            raise Skip("the Trainer steps a scheduler that it was given without a metric")
    elif given is not None or kind != KIND:
        raise Skip("the scheduler does not wait for a plateau")
    else:
        settings = getattr(args, "lr_scheduler_kwargs", None)
        mode = settings.get("mode", "min") if isinstance(settings, Mapping) else "min"
    metric = args.metric_for_best_model or "loss"
    greater = bool(args.greater_is_better) if args.metric_for_best_model else False
    return Plateau(metric, mode, "max" if greater else "min")
