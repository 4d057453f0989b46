"""The head's gradient without a backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainsanity.engine.session import objective_of
from trainsanity.measurements.model.head import is_tied, weight_parameter
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.steps import Step
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


def parts_of_closed_form(pipeline: Pipeline, head_name: str, step: Step) -> list[Tensor]:
    """Return what each micro-batch adds to the head's gradient, ``[C, H]`` float64.

    Logits, targets and head inputs are all that it takes.

    Raises:
        Skip: the head's gradient has another part, or what the head read was not visible.
    """
    if not head_name:
        raise Skip("the model has no linear head")
    if is_tied(pipeline, head_name):
        raise Skip("the head is tied to the embedding, whose gradient has a part of its own")
    if weight_parameter(pipeline.model.get_submodule(head_name)) is None:
        raise Skip(
            "the head's weight is computed from other parameters (a parametrisation), which have "
            "the gradient in its place"
        )
    right = reference(pipeline, step)
    if any(items.vectors is None for items in right.parts):
        raise Skip("which vectors the head read was not visible in the step")
    objective = objective_of(pipeline)
    return [
        weight * (objective.residual(items.logits, items.targets).T @ items.vectors.double())
        for items, weight in zip(right.parts, right.weights, strict=True)
        if items.vectors is not None and items.logits is not None
    ]


def closed_form(pipeline: Pipeline, head_name: str, step: Step) -> Tensor:
    """Return the head's gradient, the sum of :func:`parts_of_closed_form`.

    Raises:
        Skip: as there.
    """
    first, *others = parts_of_closed_form(pipeline, head_name, step)
    return sum(others, start=first)
