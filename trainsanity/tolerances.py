"""How much difference is arithmetic: each bound with its origin.

Where the noise can be measured on the pipeline itself it is; where it cannot, the bound counts
the roundings of the dtype in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .measurements.trainer_step import MicroStep

MARGIN = 4.0
"""How many times a measured noise floor is allowed.  Both the floor and the difference that it is
held against are maxima over a few draws of one distribution; for normal noise and four rows of a
few hundred logits, one such maximum exceeds another by more than 4 in no practical case, and a
real effect (another token pooled, a scale of 2) lies beyond it by orders of magnitude."""

STANDARD_ERRORS = 4.0
"""Width of a band around a mean, in its own standard errors: for a normal mean one healthy run in
about 30,000 falls above it."""

LOG_DECIMALS = 5e-5
"""Half a unit of the fourth decimal: transformers 4 rounds the logged loss to four."""


def loss_rounding(dtype: Any, size: float) -> float:
    """Bound on the rounding of a mean loss of ``size`` nats computed in ``dtype``.

    A loss in a low dtype is rounded at the log-softmax and again at the mean, each by half a unit
    in the last place at most, and the logits it starts from are shared with the reference; twice
    that is allowed, for kernels that round an intermediate once more.
    """
    import torch

    return 2 * float(torch.finfo(dtype).eps) * abs(size) + LOG_DECIMALS


def logits_difference(dtype: Any, noise: float, size: float) -> float:
    """Bound on the difference between equal rows asked in two batch shapes.

    ``noise`` is the measured floor.  Less than torch.testing's default relative tolerance for the
    dtype (1.3e-6 for float32, 1.6e-2 for bfloat16 ...) of the largest logit is never asked for: a
    floor of exactly zero only says that the kernels of those two shapes happen to agree.
    """
    import torch

    relative = {
        torch.float64: 1e-7,
        torch.float32: 1.3e-6,
        torch.bfloat16: 1.6e-2,
        torch.float16: 1e-3,
    }[dtype]
    return max(MARGIN * noise, relative * size)


def regress(observed: Tensor, reference: Tensor) -> tuple[float, float]:
    """Slope and cosine of one tensor on another, in float64."""
    g, r = observed.double().flatten(), reference.double().flatten()
    product = float(g @ r)
    slope = product / float(r @ r)
    return slope, product / (float(g.norm()) * float(r.norm()))


def head_gradient_floor(
    micro_steps: Sequence[MicroStep], dtype: Any, exact: Tensor
) -> tuple[float, float]:
    """Measured rounding of a head gradient accumulated in ``dtype``: slope and cosine defects.

    The closed form is computed once more as the backward pass computes it: the residual and each
    micro-batch's product rounded to the dtype that the head computed in (under autocast it is
    coarser than the weights'), the sum rounded to ``dtype`` after each addition.  What that differs from the
    exact form by is noise, not fault.

    Returns:
        allowed ``(|slope - 1|, 1 - cosine)``, each :data:`MARGIN` times the measured defect plus
        a few units of float32, in which norms are reduced.
    """
    import torch

    from .tasks import residual

    total: Tensor | None = None
    count = sum(len(micro.labels) for micro in micro_steps)
    for micro in micro_steps:
        if micro.pooled is None or micro.pooled.vector is None:
            continue
        pooled = micro.pooled
        part = (residual(pooled.logits.cpu(), micro.labels) / count).to(pooled.dtype)
        product = (part.double().T @ pooled.vector.double().cpu()).to(pooled.dtype).to(dtype)
        total = product if total is None else total + product
    floor = 64 * float(torch.finfo(torch.float32).eps)
    if total is None:
        return floor, floor
    slope, cosine = regress(total, exact)
    return MARGIN * abs(slope - 1) + floor, MARGIN * (1 - cosine) + floor
