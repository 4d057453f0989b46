"""Shared by checks of the head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainsanity.measurements.model.forward import Forward
from trainsanity.measurements.model.head import weight_parameter, weight_values
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


HEAD_STANDARD_ERRORS = 6.0
"""How far the standard deviation of a freshly drawn head may lie from initializer_range, in its own
standard errors 1/sqrt(2n).  Normal and truncated-normal draws (cut at two or three deviations)
differ by less than that for heads of the usual size only if the cut is at three or more."""


def head_weight(pipeline: Pipeline, forward: Forward) -> Tensor:
    """Return the head's weight.

    Raises:
        Skip: its values are not in memory: quantised, or offloaded; or nobody drew them.
    """
    head = pipeline.model.get_submodule(forward.head_name)
    if weight_parameter(head) is None:
        raise Skip("the head's weight is computed from other parameters (a parametrisation)")
    weight = weight_values(head)
    if weight.is_meta or not weight.is_floating_point():
        raise Skip(not_in_memory(pipeline.model) or "the head's weight is quantised")
    return weight


def width_of_a_draw(elements: int) -> float:
    """Return how far a fresh draw's standard deviation may be from the planned one, relative."""
    return HEAD_STANDARD_ERRORS / math.sqrt(2 * elements)


def planned_deviation(pipeline: Pipeline) -> float:
    """Return the standard deviation that the config has for a head that is drawn anew.

    BART and its relatives call ``initializer_range`` ``init_std``.

    Raises:
        Skip: the config has none; T5 scales each layer by its own width.
    """
    for name in ("initializer_range", "init_std"):
        planned = getattr(pipeline.config, name, None)
        # NaN and infinity are no deviation, which is for the check to say.
        if isinstance(planned, int | float) and (planned > 0 or not math.isfinite(planned)):
            return float(planned)
    raise Skip("the config has no initializer_range to hold the head against")
