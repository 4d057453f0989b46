"""Check that the gradients of a step are finite, at the cost of reading a few small tensors."""

from __future__ import annotations

import math
from typing import Any

SAMPLE = 5
"""Parameters whose gradients are read: the smallest, and the last, which is nearest to the loss."""

HALVINGS = 16
"""Steps in a row that float16's loss scaler may skip: it starts at 2^16 (``torch.amp.GradScaler``)
and halves after each infinite gradient, so after these the scale cannot be the cause."""


class Gradients:
    """Checks the gradients just before the optimizer steps.

    A few small gradients show a NaN anywhere: clipping multiplies by the norm, so one NaN makes
    every clipped gradient NaN, and a NaN loss makes every gradient NaN that it reaches.  One
    infinite element makes clipping multiply by zero; so if the sample is zero, all are read.
    """

    def __init__(self, model: Any, *, scaled: bool) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        smallest = sorted(trained, key=lambda p: p.numel())[: SAMPLE - 1]
        self._sample = [*smallest, *trained[-1:]]
        self._every = trained
        self._patience = HALVINGS if scaled else 0
        self._in_a_row = 0

    def broken(self) -> bool:
        """Return whether the gradients are not finite and no loss scaler explains it."""
        size = _size(self._sample)
        if size == 0:
            size = _size(self._every)
        self._in_a_row = 0 if math.isfinite(size) else self._in_a_row + 1
        return self._in_a_row > self._patience


def _size(parameters: list[Any]) -> float:
    """Return the largest magnitude, finite only if all gradients are; synchronises once."""
    import torch

    held = (p.grad.detach() for p in parameters if p.grad is not None and not p.grad.is_sparse)
    # The local part of a sharded gradient; the other processes check theirs.
    local = (each.to_local() if hasattr(each, "to_local") else each for each in held)
    # A maximum cannot overflow; a sum of finite values could.
    peaks = [each.abs().max().float() for each in local if each.numel()]
    if not peaks:
        return 0.0
    device = peaks[0].device
    return float(torch.stack([peak.to(device) for peak in peaks]).max())
