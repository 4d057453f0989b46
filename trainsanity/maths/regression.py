"""Least squares of a tensor on one or several others, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def regress(observed: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return slope and cosine of one tensor on another.

    Zeros are zeros, 1 and 1: a process whose rows have no target has no gradient, and should have
    none.  Zeros and something else have no direction in common, 0 and 0.
    """
    g, r = observed.double().flatten(), reference.double().flatten()
    product, size, right = float(g @ r), float(g.norm()), float(r.norm())
    if not size or not right:
        return (1.0, 1.0) if size == right else (0.0, 0.0)
    return product / right**2, product / (size * right)


def decompose(observed: Tensor, parts: Sequence[Tensor]) -> tuple[list[float], float]:
    """Return the weights of the sum of ``parts`` nearest to a tensor, and its cosine with that sum.

    The normal equations hold one inner product per pair, so that no matrix of all parts is made.
    Parts that depend on each other share their weight.
    """
    import torch

    flat = [part.double().flatten() for part in parts]
    target = observed.double().flatten()
    products = torch.tensor(
        [[float(one @ other) for other in flat] for one in flat], dtype=torch.float64
    )
    right = torch.tensor([float(one @ target) for one in flat], dtype=torch.float64)
    weights = torch.linalg.pinv(products, hermitian=True) @ right
    total = sum((weight * part for weight, part in zip(weights, flat, strict=True)), 0 * target)
    size = float(total.norm()) * float(target.norm())
    return weights.tolist(), float(total @ target) / size if size else 0.0
