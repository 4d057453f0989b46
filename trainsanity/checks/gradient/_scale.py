"""Shared by checks of the gradient: rounding, bounds of its norm, its right scale."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import REDUCTIONS, within
from trainsanity.measurements.step.bounds import logged_loss_rounding
from trainsanity.measurements.step.closed_form import closed_form
from trainsanity.measurements.step.reference_loss import Reference, reference
from trainsanity.measurements.step.steps import Recording, Step
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

STALE = "the gradient holds that of earlier steps, which was not zeroed"
"""Why it is not held against what one step gives."""


def rounding_of_norms(step: Step, pipeline: Pipeline) -> float:
    """Return the relative rounding of a norm of gradients in the dtype that they were computed in.

    Scaling by the clip rounds every element once, by half a unit in the last place at most; the
    norm of the result is off by no more than one unit relative.  Under autocast the head's dtype
    is coarser than the weights'.  The reductions run in float32.
    """
    import torch

    dtypes = [pipeline.dtype, *(m.items.dtype for m in step.micro_steps if m.items is not None)]
    return max(float(torch.finfo(dtype).eps) for dtype in dtypes) + REDUCTIONS


def exact_head_gradient(pipeline: Pipeline, recording: Recording, step: Step) -> Any:
    """Return the closed form of the head's gradient; None where there is none to compare with."""
    if step.head_gradient is None:
        return None
    with suppress(Skip):
        return closed_form(pipeline, recording.head_name, step)
    return None


def norm_at_most(step: Step, right: Reference) -> float:
    """Return the longest that the gradient of the step's mean loss can be.

    With g_k the gradient that micro-batch k added, and c_k what its backward pass started from in
    units of its share of the mean, the gradient is ``sum_k g_k / c_k``: no longer than the sum of
    the norms.  Infinite where a loss is exactly 0, which does not tell what it was divided by.
    """
    if not all(micro.backward_loss for micro in step.micro_steps):
        return math.inf
    parts = zip(step.micro_steps, right.parts, right.weights, strict=True)
    return sum(
        micro.gradient_norm * weight * float(items.losses.sum()) / micro.backward_loss
        for micro, items, weight in parts
    )


def norm_at_the_right_scale(pipeline: Pipeline, recording: Recording, step: Step) -> float | None:
    """Return what the norm before clipping would be if the loss were the mean over its items.

    The scale is the slope of the head's gradient on its closed form, or else the logged loss over
    the reference; the norm is no longer than the micro-batches' own gradients add up to.  None
    where the objective has no reference.
    """
    try:
        right = reference(pipeline, step)
    except Skip:
        return None
    exact = exact_head_gradient(pipeline, recording, step)
    logged = step.logged.get("loss")
    if exact is not None:
        scale = abs(regress(step.head_gradient, exact)[0])
    elif logged is not None and right.mean:
        scale = abs(logged / right.mean)
    else:
        scale = 1.0
    if not scale > 0:
        return None
    norm = step.norm_before_clip / scale
    most = math.inf if recording.sharded else norm_at_most(step, right)
    # A custom training loop does not show what a micro-batch adds.
    return min(norm, most) if most > 0 else norm


def loss_is_the_reference(pipeline: Pipeline, step: Step) -> bool | None:
    """Return whether the step logged its reference loss; None where that cannot be told."""
    with suppress(Skip):
        expected, logged = reference(pipeline, step).mean, step.logged.get("loss")
        if logged is not None:
            return within(abs(logged - expected), logged_loss_rounding(step.micro_steps))
    return None
