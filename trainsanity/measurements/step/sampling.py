"""A few elements of a gradient, spread over its rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import whole

if TYPE_CHECKING:
    pass


SAMPLE = 1 << 16
"""Elements of a parameter whose gradients are kept: a thousand tensors make half a gigabyte in
float64, and a slope over as many elements is known to 0.4 % of a standard deviation."""


def norm_of(tensor: Any) -> Any:
    """Return the tensor's 2-norm, reduced in float32 or, of float64, in that."""
    import torch

    return torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


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
