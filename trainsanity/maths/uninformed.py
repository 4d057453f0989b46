"""The loss of logits that say nothing about the labels, from the logits themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Uninformed:
    """Return the cross entropy that these logits would have with labels dealt out at random.

    Attributes:
        loss: its mean over the rows.
        gap: how much the mean cross entropy of the rows' own labels lies above it.
        error: standard error of ``gap`` under random labels.
    """

    loss: float
    gap: float
    error: float


def uninformed(logits: Tensor, labels: Tensor, shares: Tensor) -> Uninformed:
    """Return the loss that ``logits`` have if they are independent of the labels.

    A row's cross entropy is ``logsumexp(z) - z_y``.  Over labels drawn with the shares p its mean
    is ``logsumexp(z) - sum_c p_c z_c``, and ``z_y`` has the variance
    ``sum_c p_c z_c^2 - (sum_c p_c z_c)^2``.

    Args:
        logits: ``[N, C]`` float64.
        labels: ``[N]``.
        shares: of the labels, ``[C]`` float64, with the sum 1.
    """
    mean = (logits * shares).sum(-1)
    variance = ((logits * logits * shares).sum(-1) - mean**2).clamp(min=0)
    gap = mean - logits.gather(-1, labels[:, None])[:, 0]
    return Uninformed(
        loss=float((logits.logsumexp(-1) - mean).mean()),
        gap=float(gap.mean()),
        error=float(variance.sum().sqrt() / len(gap)),
    )
