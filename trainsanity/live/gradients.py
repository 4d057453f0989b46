"""Whether the gradients of a step are numbers, at the cost of a few small tensors."""

from __future__ import annotations

import math
from typing import Any

SAMPLE = 5
"""Parameters that are looked at: the smallest, and the last, which is nearest to the loss."""

HALVINGS = 16
"""Steps in a row that float16's loss scaler may skip: it starts at 2^16 (``torch.amp.GradScaler``)
and halves after each infinite gradient, so from then on the scale is no excuse."""


class Gradients:
    """Looks at the gradients just before the optimizer steps.

    A clipped gradient that has one NaN is NaN everywhere, because clipping multiplies by the norm;
    and a NaN loss makes every gradient NaN that it reaches.  So a few small ones show it.  One
    infinite element makes clipping multiply by zero: if all that is sampled is zero, all are read.
    """

    def __init__(self, model: Any, *, scaled: bool) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        smallest = sorted(trained, key=lambda p: p.numel())[: SAMPLE - 1]
        self._sample = [*smallest, *trained[-1:]]
        self._every = trained
        self._patience = HALVINGS if scaled else 0
        self._in_a_row = 0

    def broken(self) -> bool:
        """The gradients are not numbers, and no loss scaler will catch that."""
        size = _size(self._sample)
        if size == 0:
            size = _size(self._every)
        self._in_a_row = 0 if math.isfinite(size) else self._in_a_row + 1
        return self._in_a_row > self._patience


def _size(parameters: list[Any]) -> float:
    """A sum over the gradients that is finite if and only if they all are; one synchronisation."""
    import torch

    held = (p.grad.detach() for p in parameters if p.grad is not None and not p.grad.is_sparse)
    # Of a sharded gradient, what lies here; the other processes look at theirs.
    local = (each.to_local() if hasattr(each, "to_local") else each for each in held)
    # The largest magnitude cannot overflow, which a sum of finite ones could.
    peaks = [each.abs().max().float() for each in local if each.numel()]
    if not peaks:
        return 0.0
    device = peaks[0].device
    return float(torch.stack([peak.to(device) for peak in peaks]).max())
