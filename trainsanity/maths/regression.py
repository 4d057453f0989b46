"""What a tensor is made of: least squares on one or several others, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def regress(observed: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return slope and cosine of one tensor on another."""
    g, r = observed.double().flatten(), reference.double().flatten()
    product = float(g @ r)
    slope = product / float(r @ r)
    return slope, product / (float(g.norm()) * float(r.norm()))


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
