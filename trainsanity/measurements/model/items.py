"""Items of the loss in one forward pass: logits, targets, reference losses, head inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.base import IGNORED, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.model.head import Pooled


@dataclass
class Items:
    """The counted items of one micro-batch; tensors on the CPU.

    Attributes:
        targets: ``[M]``, or ``[M, C]``.
        losses: ``[M]`` float64, the reference loss of each item.
        logits: ``[M, C]`` as the model returned them; None where they are over a vocabulary,
            which is too wide to keep.
        vectors: ``[M, H]``, what the head made them from; None if not found or not kept.
        dtype: in which the head computed.
        device: type of the device that it computed on.
    """

    targets: Tensor
    losses: Tensor
    logits: Tensor | None
    vectors: Tensor | None
    dtype: Any
    device: str = "cpu"


def items_of(task: Objective, seen: Pooled, labels: Tensor) -> Items:
    """Sort a pass into items.

    Args:
        task: what is counted.
        seen: the pass.
        labels: ``[B]``, ``[B, C]`` or ``[B, T]``, as the Trainer was given them.
    """
    labels = with_prompt(seen.logits, labels.to(seen.logits.device))
    task.require_fit(seen.logits, labels)
    logits, targets = task.items(seen.logits, labels), task.targets(labels)
    keep = not task.of_words
    vectors = seen.vector if keep else None
    return Items(
        targets=targets.cpu(),
        losses=task.losses(logits, targets),
        logits=logits.cpu() if keep else None,
        vectors=None if vectors is None else task.items(vectors, labels).cpu(),
        dtype=seen.dtype or seen.logits.dtype,
        device=seen.logits.device.type,
    )


def with_prompt(logits: Tensor, labels: Tensor) -> Tensor:
    """Return labels for all logits: none for the virtual tokens that prompt tuning puts in front.

    The last of them predicts the first token of the row.
    """
    import torch

    if logits.dim() != 3 or labels.dim() != 2 or logits.shape[1] <= labels.shape[1]:
        return labels
    ahead = logits.shape[1] - labels.shape[1]
    return torch.nn.functional.pad(labels, (ahead, 0), value=IGNORED)
