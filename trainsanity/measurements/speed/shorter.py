"""A batch without the columns that are padding in every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainsanity.fields import IDS, MASK

ALIGNED = 8
"""Widths stay multiples of it: tensor cores want that of 16-bit types (NVIDIA's guide)."""


def shortened(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the batch as wide as its longest row; None if it is, or its mask does not tell.

    All tensors of the mask's width are cut on the side that is padded; one whose other axes have
    that width, too, could be cut wrongly, and there is no such batch then.
    """
    import torch

    ids, mask = inputs.get(IDS), inputs.get(MASK)
    if not (torch.is_tensor(ids) and torch.is_tensor(mask)) or ids.shape != mask.shape:
        return None
    if mask.dim() != 2:
        return None
    width = mask.shape[1]
    shown = mask.bool().any(dim=0).nonzero().flatten()
    if not len(shown):
        return None
    first, last = int(shown[0]), int(shown[-1]) + 1
    if first and last < width:
        return None  # padded on both sides
    wide = min(width, -(-(last - first) // ALIGNED) * ALIGNED)
    if wide == width:
        return None
    cut = slice(width - wide, width) if first else slice(0, wide)
    made: dict[str, Any] = {}
    for name, value in inputs.items():
        if not torch.is_tensor(value) or width not in value.shape:
            made[name] = value
        elif value.dim() == 2 and value.shape == mask.shape:
            made[name] = value[:, cut].contiguous()
        else:
            return None
    return made
