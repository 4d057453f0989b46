"""Shared by checks of the gradient stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainsanity.maths.tolerances import REDUCTIONS
from trainsanity.measurements.step.steps import Step

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def _eps(step: Step, pipeline: Pipeline) -> float:
    """Relative rounding of a norm of gradients in the dtype that they were computed in.

    Scaling by the clip rounds every element once, by half a unit in the last place at most; the
    norm of the result is off by no more than one unit relative.  Under autocast the head's dtype
    is coarser than the weights'.  The reductions run in float32.
    """
    import torch

    dtypes = [pipeline.dtype, *(m.items.dtype for m in step.micro_steps if m.items is not None)]
    return max(float(torch.finfo(dtype).eps) for dtype in dtypes) + REDUCTIONS
