"""Rounding of a recorded step's loss and head gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import LOG_DECIMALS, MARGIN, REDUCTIONS, STANDARD_ERRORS

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import MicroStep, Reference
    from trainsanity.objectives.base import Objective


def logged_loss_rounding(micro_steps: Sequence[MicroStep]) -> float:
    """Bound on what rounding makes of the logged loss of these micro-batches, in nats.

    Two roundings are counted.  The log-softmax of each example is rounded to the dtype that the
    head computed in, also under autocast, where only what follows runs in float32: the error of
    their mean is :data:`STANDARD_ERRORS` times rms / sqrt(N), with the rms measured by rounding the
    reference losses themselves.  The mean is rounded to the loss's own dtype: half a unit in the
    last place, two where that is float32, in whose reductions the order is not fixed.
    """
    import torch

    squares, count, size = 0.0, 0, 0.0
    for micro in micro_steps:
        assert micro.items is not None
        losses = micro.items.losses
        rounded = losses.to(micro.items.dtype).double()
        squares += float(((rounded - losses) ** 2).sum())
        size += float(losses.sum())
        count += len(losses)
    eps = float(torch.finfo(micro_steps[0].loss_dtype).eps)
    units = 0.5 if eps > torch.finfo(torch.float32).eps else 2
    spread = STANDARD_ERRORS * math.sqrt(squares) / count
    return spread + units * eps * abs(size / count) + LOG_DECIMALS


def head_gradient_floor(
    task: Objective, right: Reference, dtype: Any, exact: Tensor
) -> tuple[float, float]:
    """Measured rounding of a head gradient accumulated in ``dtype``: slope and cosine defects.

    The closed form is computed once more as the backward pass computes it: the residual and each
    micro-batch's product rounded to the dtype that the head computed in (under autocast it is
    coarser than the weights'), the sum rounded to ``dtype`` after each addition.  What that
    differs from the exact form by is noise, not fault.  A probability near 1 is rounded before the
    target is taken off it: of a row that is learnt little else is left.

    Returns:
        allowed ``(|slope - 1|, 1 - cosine)``, each :data:`MARGIN` times the measured defect plus
        a few units of float32, in which norms are reduced.  The slope is allowed half a unit in
        the last place more: 1 / N is a number of that dtype, too, and its rounding is common to
        all elements (1 / 24 in bfloat16 is 0.2 % too large).
    """
    import torch

    total: Tensor | None = None
    common = 0.0
    for items, weight in zip(right.parts, right.weights, strict=True):
        assert items.logits is not None
        assert items.vectors is not None
        common = max(common, float(torch.finfo(items.dtype).eps) / 2)
        residual = task.residual(items.logits, items.targets)
        learnt = (residual + 1).float().double() - 1
        residual = torch.where(residual < 0, learnt, residual)
        part = (weight * residual).to(items.dtype)
        product = (part.double().T @ items.vectors.double()).to(items.dtype).to(dtype)
        total = product if total is None else total + product
    if total is None:
        return REDUCTIONS, REDUCTIONS
    slope, cosine = regress(total, exact)
    return MARGIN * abs(slope - 1) + common + REDUCTIONS, MARGIN * (1 - cosine) + REDUCTIONS
