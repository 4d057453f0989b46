"""Shared by checks of the model stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainsanity.measurements.model.forward import Forward
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


HEAD_STANDARD_ERRORS = 6.0
"""How far the standard deviation of a freshly drawn head may lie from initializer_range, in its own
standard errors 1/sqrt(2n).  Normal and truncated-normal draws (cut at two or three deviations)
differ by less than that for heads of the usual size only if the cut is at three or more."""


def _weight(pipeline: Pipeline, forward: Forward) -> Tensor:
    """The head's weight.

    Raises:
        Skip: its values are not to be had: quantised, or offloaded.
    """
    weight: Tensor = pipeline.model.get_submodule(forward.head_name).weight.detach()
    if weight.is_meta or not weight.is_floating_point():
        raise Skip(not_in_memory(pipeline.model) or "the head's weight is quantised")
    return weight
