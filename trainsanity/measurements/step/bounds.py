"""Rounding of a recorded step's loss and head gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import LOG_DECIMALS, MARGIN, REDUCTIONS, STANDARD_ERRORS

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.model.items import Items
    from trainsanity.measurements.step.reference_loss import Reference
    from trainsanity.measurements.step.steps import MicroStep
    from trainsanity.objectives.base import Objective


def gradient_unit(model: Any, *others: Any) -> float:
    """Return one unit in the last place, relative, of the coarsest dtype that gradients go through.

    Frozen weights count: an adapter in float32 gets its gradient through layers in bfloat16, where
    already the factor 1 / items is rounded.  Quantised layers say what they compute in.

    Args:
        model: the ``torch.nn.Module``.
        others: further dtypes, as that of autocast.
    """
    import torch

    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} | {*others}
    for module in model.modules():
        if isinstance(dtype := getattr(module, "compute_dtype", None), torch.dtype):
            dtypes.add(dtype)
    return max((float(torch.finfo(dtype).eps) for dtype in dtypes), default=math.nan)


def added_in_parts(dtype: Any, parts: int) -> float:
    """Return the rounding of a sum whose terms are added one by one to a number of this dtype.

    Each addition rounds the sum so far, by up to half a unit in its last place: 1 / sqrt(12) of a
    unit on average.  Sums so far grow as sqrt(k / parts) at the least, which is what terms of
    random signs make of them, so that their squares add up to (parts + 1) / 2.

    Args:
        dtype: of the sum.
        parts: how many terms.
    """
    import torch

    return float(torch.finfo(dtype).eps) * math.sqrt((parts + 1) / 24)


def loss_rounding(micro_steps: Sequence[MicroStep]) -> float:
    """Bound on what rounding makes of the mean loss of these micro-batches, in nats.

    Two roundings are counted.  The log-softmax of each example is rounded to the dtype that the
    head computed in, also under autocast, where only what follows runs in float32: the error of
    their mean is :data:`STANDARD_ERRORS` times rms / sqrt(N), with the rms measured by rounding the
    reference losses themselves.  The mean is rounded to the loss's own dtype: half a unit in the
    last place, two where that is float32, in whose reductions the order is not fixed.  On a CPU
    torch sums the losses of a micro-batch in a dtype coarser than float32, too: each partial sum is
    off by half a unit of its own at the most, 1 / sqrt(12) of a unit on average.
    """
    import torch

    kind = micro_steps[0].loss_dtype
    eps = float(torch.finfo(kind).eps)
    coarse = eps > torch.finfo(torch.float32).eps
    squares, sums, count, size = 0.0, 0.0, 0, 0.0
    for micro in micro_steps:
        assert micro.items is not None
        losses = micro.items.losses
        rounded = losses.to(micro.items.dtype).double()
        squares += float(((rounded - losses) ** 2).sum())
        size += float(losses.sum())
        count += len(losses)
        if coarse and micro.items.dtype == kind and micro.items.device == "cpu":
            units_of_sums = torch.exp2(losses.cumsum(0)[1:].abs().log2().floor()) * eps
            sums += float(units_of_sums.square().sum()) / 12
    units = 0.5 if coarse else 2
    spread = STANDARD_ERRORS * math.sqrt(squares + sums) / count
    return spread + units * eps * abs(size / count)


def logged_loss_rounding(micro_steps: Sequence[MicroStep]) -> float:
    """Bound on what rounding makes of the logged loss of these micro-batches, in nats.

    To :func:`loss_rounding` half a unit of the last decimal of a log is added.
    """
    return loss_rounding(micro_steps) + LOG_DECIMALS


def head_gradient_floor(
    task: Objective, right: Reference, dtype: Any, exact: Tensor
) -> tuple[float, float]:
    """Measured rounding of a head gradient accumulated in ``dtype``: slope and cosine defects.

    The closed form is computed once more as the backward pass computes it: the residual and each
    micro-batch's product in the dtype that the head computed in (under autocast it is coarser than
    the weights'), the sum rounded to ``dtype`` after each addition.  What that differs from the
    exact form by is noise, not fault.

    Returns:
        allowed ``(|slope - 1|, 1 - cosine)``, each :data:`MARGIN` times the measured defect plus
        a few units of float32, in which norms are reduced.  The slope is allowed half a unit in
        the last place more: 1 / N is a number of that dtype, too, and its rounding is common to
        all elements (1 / 24 in bfloat16 is 0.2 % too large); and what the rounding of
        probabilities near 1 makes of rows that are learnt.
    """
    import torch

    total: Tensor | None = None
    common = 0.0
    for items, weight in zip(right.parts, right.weights, strict=True):
        assert items.logits is not None
        assert items.vectors is not None
        common = max(common, float(torch.finfo(items.dtype).eps) / 2)
        residual = task.residual(items.logits, items.targets)
        common = max(common, _of_what_is_learnt(residual))
        part = (weight * _as_computed(task, items, residual)).to(items.dtype)
        product = (part.double().T @ items.vectors.double()).to(items.dtype).to(dtype)
        total = product if total is None else total + product
    if total is None:
        return REDUCTIONS, REDUCTIONS
    slope, cosine = regress(total, exact)
    return MARGIN * abs(slope - 1) + common + REDUCTIONS, MARGIN * (1 - cosine) + REDUCTIONS


def _as_computed(task: Objective, items: Items, residual: Tensor) -> Tensor:
    """Return the residual as a dtype coarser than float32 makes it, in float64.

    There probabilities are exponentials of logarithms that are rounded themselves: in bfloat16 a
    logarithm between 4 and 8 is off by up to 1/64, and so is the probability, by 1.6 %.
    """
    import torch

    if torch.finfo(items.dtype).eps <= torch.finfo(torch.float32).eps:
        return residual
    assert items.logits is not None
    z = items.logits.detach().to(items.dtype).requires_grad_()
    with torch.enable_grad():
        loss = task.item_losses(z, items.targets.to(z.device)).sum()
    return torch.autograd.grad(loss, z)[0].to(residual.device).double()


def _of_what_is_learnt(residual: Tensor) -> float:
    """Return how much of a slope is the rounding of probabilities near 1.

    A softmax in float32 is off by about two units of 1, for its sum and its quotient, and then the
    target is taken off it: of a row that is learnt little else is left.  Rows of one loss are off
    alike, so that this does not average out.
    """
    import torch

    left = float(residual.abs().amax(-1).mean()) if residual.dim() > 1 and len(residual) else 1.0
    # What is off in rows that are not learnt at all is counted as the order of sums.
    beyond = max(1 / left - 1, 0.0) if left > 0 else math.inf
    return min(2 * float(torch.finfo(torch.float32).eps) * beyond, 1.0)
