"""The head's gradient without a backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.measurements.model.head import is_tied
from trainsanity.measurements.step.steps import Step, reference
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def closed_form(pipeline: Pipeline, head_name: str, step: Step) -> Any:
    """The head's gradient from logits, targets and head inputs alone, ``[C, H]`` float64.

    Raises:
        Skip: the head's gradient has another part, or what the head read was not visible.
    """
    if not head_name:
        raise Skip("the model has no linear head")
    if is_tied(pipeline, head_name):
        raise Skip("the head is tied to the embedding, whose gradient has a part of its own")
    right = reference(pipeline, step)
    if any(items.vectors is None for items in right.parts):
        raise Skip("which vectors the head read was not visible in the step")
    products = [
        weight
        * (objective_of(pipeline).residual(items.logits, items.targets).T @ items.vectors.double())
        for items, weight in zip(right.parts, right.weights, strict=True)
        if items.vectors is not None and items.logits is not None
    ]
    return sum(products[1:], start=products[0])
