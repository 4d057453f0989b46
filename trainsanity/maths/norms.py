"""Norms of tensors of any dtype."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def norm_of(tensor: Any, dim: int | None = None) -> Any:
    """Return the tensor's 2-norm, reduced in float32 or, of float64, in that.

    Torch refuses to reduce in a dtype that is narrower than the tensor's own.

    Args:
        tensor: of any floating dtype.
        dim: axis to reduce; None for all.
    """
    import torch

    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dim=dim, dtype=dtype)


def norm_of_all(tensors: Iterable[Any]) -> float:
    """Return the 2-norm over all gradients that there are: of None there is none."""
    return joined(norm_of(one.detach()) for one in tensors if one is not None)


def joined(norms: Iterable[Any]) -> float:
    """Return the 2-norm over all tensors that these are the norms of; 0 where there are none."""
    import torch

    single = list(norms)
    if not single:
        return 0.0
    widest = torch.float64 if any(n.dtype == torch.float64 for n in single) else torch.float32
    device = single[0].device
    return float(torch.linalg.vector_norm(torch.stack([n.to(device, widest) for n in single])))
