"""How much difference is arithmetic: each bound with its origin.

Where the noise can be measured on the pipeline itself it is; where it cannot, the bound counts
the roundings of the dtype in question.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .measurements.recording import MicroStep, Reference
    from .tasks import Task

MARGIN = 4.0
"""How many times a measured noise floor is allowed.  Floor and difference are two draws of one
statistic of n roundings: their largest, or the length of all of them.  For normal ones the largest
of one draw exceeds four times that of another with a probability of 0.001 at n = 8, 1e-6 at 24
and 1e-10 at 64 (`tests/test_tolerances.py` integrates it), and lengths differ less; what is
compared here has dozens of elements and more.  A real effect (another token pooled, a
scale of 2) lies beyond it by orders of magnitude."""

REDUCTIONS = 64 * 2.0**-23
"""Relative difference that is the order of float32 reductions: the error of a sum of n terms grows
as sqrt(n) units, and the longest sums here have a few thousand."""

STANDARD_ERRORS = 4.0
"""Width of a band around a mean, in its own standard errors: for a normal mean one healthy run in
about 30,000 falls above it."""

LOG_DECIMALS = 5e-5
"""Half a unit of the fourth decimal: transformers 4 rounds the logged loss to four."""


def within(seen: float, allowed: float) -> bool:
    """Whether a difference is no more than arithmetic explains; never for a NaN.

    An infinite bound explains nothing: a NaN or an infinity went into it.
    """
    return seen <= allowed < math.inf


def largest(values: Iterable[float], default: float = 0.0) -> float:
    """The largest; NaN if any is, which ``max`` tells of the first only."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=default)


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
    return largest((MARGIN * noise, relative * size))


def regress(observed: Tensor, reference: Tensor) -> tuple[float, float]:
    """Slope and cosine of one tensor on another, in float64."""
    g, r = observed.double().flatten(), reference.double().flatten()
    product = float(g @ r)
    slope = product / float(r @ r)
    return slope, product / (float(g.norm()) * float(r.norm()))


def head_gradient_floor(
    task: Task, right: Reference, dtype: Any, exact: Tensor
) -> tuple[float, float]:
    """Measured rounding of a head gradient accumulated in ``dtype``: slope and cosine defects.

    The closed form is computed once more as the backward pass computes it: the residual and each
    micro-batch's product rounded to the dtype that the head computed in (under autocast it is
    coarser than the weights'), the sum rounded to ``dtype`` after each addition.  What that
    differs from the exact form by is noise, not fault.

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
        part = (weight * task.residual(items.logits, items.targets)).to(items.dtype)
        product = (part.double().T @ items.vectors.double()).to(items.dtype).to(dtype)
        total = product if total is None else total + product
    if total is None:
        return REDUCTIONS, REDUCTIONS
    slope, cosine = regress(total, exact)
    return MARGIN * abs(slope - 1) + common + REDUCTIONS, MARGIN * (1 - cosine) + REDUCTIONS
