"""Gradients: their norms, and a few elements spread over rows and columns."""

from __future__ import annotations

from typing import Any

from trainsanity.isolation.shards import local, whole
from trainsanity.maths.norms import joined, norm_of

SAMPLE = 1 << 16
"""Elements of a parameter whose gradients are kept: a thousand tensors make half a gigabyte in
float64, and a slope over as many elements is known to 0.4 % of a standard deviation."""


def sample(tensor: Any) -> Any:
    """Return at most :data:`SAMPLE` elements (1-D, on the CPU), spread over rows and columns.

    All processes have to ask for a sharded tensor's.
    """
    import math

    flat = whole(tensor.detach()).reshape(-1)
    stride = max(1, flat.numel() // SAMPLE)
    # A stride that shares a divisor with the row length would look at a few columns only.
    while stride > 1 and math.gcd(stride, tensor.shape[-1]) > 1:
        stride -= 1
    return flat[::stride][:SAMPLE].cpu().clone()


def any_gradient(optimizer: Any) -> bool:
    """Return whether anything that an optimizer holds has a gradient that is not zero."""
    return any(
        bool(local(p.grad).any())
        for group in optimizer.param_groups
        for p in group["params"]
        if p.grad is not None
    )


def total_norm(model: Any) -> float:
    """The 2-norm over all gradients."""
    return joined(whole(norm_of(p.grad)) for p in model.parameters() if p.grad is not None)
