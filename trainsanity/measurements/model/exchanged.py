"""The loss of a reward model whose outputs are exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.random_states import set_torch_states, torch_states
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import prepared, quiet
from trainsanity.measurements.data.pairs import batches_of
from trainsanity.measurements.model.head import find_head
from trainsanity.objectives.base import head_classes
from trainsanity.objectives.preference import has_pairs
from trainsanity.types import OUTCOMES, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

UNITS = 16
"""Roundings of a loss whose terms are added in another order."""


@dataclass(frozen=True)
class Exchanged:
    """What exchanging the outputs of a head does to the loss.

    Attributes:
        head: its name.
        width: how many numbers it gives.
        difference: of the loss.
        allowed: what rounding explains of it.
    """

    head: str
    width: int
    difference: float = 0.0
    allowed: float = 0.0


@measurement(Cost.FORWARD)
def exchanged(pipeline: Pipeline) -> Exchanged:
    """Ask the first batch for its loss with the head's outputs as they are, and rolled by one.

    Raises:
        Skip: the rows are no pairs, the model no classifier, or its loss cannot be asked.
    """
    if not has_pairs(getattr(pipeline.train_dataset, "column_names", None)):
        raise Skip("the rows hold no chosen and rejected sides")
    if "ForSequenceClassification" not in head_classes(pipeline):
        raise Skip("the model is no classifier of sequences, as reward models are")
    name, head = find_head(pipeline)
    if head.out_features == 1:
        return Exchanged(name, 1)
    try:
        plain, other, eps = _losses(pipeline, head)
    except OUTCOMES:
        raise
    except Exception as error:  # the user's own loss, outside a training step
        said = f"{type(error).__name__}: {first_line(error)}"
        raise Skip(f"the loss of a batch could not be asked by itself: {said}") from error
    return Exchanged(name, head.out_features, abs(plain - other), UNITS * eps * abs(plain))


def _losses(pipeline: Pipeline, head: Any) -> tuple[float, float, float]:
    import torch

    trainer, model, found = pipeline.trainer, pipeline.model, []
    inputs = prepared(pipeline, next(batches_of(pipeline)))
    eps = 0.0
    with preserved(pipeline), quiet(pipeline), torch.no_grad():
        model.eval()
        state = torch_states()
        for shift in (0, 1):
            handle = head.register_forward_hook(lambda *args, by=shift: args[-1].roll(by, -1))
            set_torch_states(*state)
            try:
                loss = trainer.compute_loss(model, dict(inputs))
            finally:
                handle.remove()
            eps = float(torch.finfo(loss.dtype).eps)
            found.append(float(loss.float().mean()))
    return found[0], found[1], eps
