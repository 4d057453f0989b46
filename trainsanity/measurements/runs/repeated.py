"""What a metric says of the same predictions again, and of one class for every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TIMES = 3
"""Times that right predictions are scored after wrong ones: what is counted on goes one way, and a
metric that draws numbers does so once in six runs."""


@dataclass
class Repeated:
    """Metrics of evaluations that follow each other.

    Attributes:
        right: for right predictions, several times in a row, after wrong ones.
        always: where each row has one class of several: for predictions that are class 1 for each.
        truth: the labels of those rows.
    """

    right: list[dict[str, Any]] = field(default_factory=list)
    always: dict[str, Any] = field(default_factory=dict)
    truth: list[int] = field(default_factory=list)


def ask_repeatedly(
    again: Callable[[Callable[[Any, Any], Any]], dict[str, Any]],
    right: Callable[[Any, Any], Any],
    wrong: Callable[[Any, Any], Any],
    labels: list[Any],
) -> Repeated:
    """Score wrong predictions, then right ones several times, then one class for all.

    Args:
        again: evaluates with other logits, made of the model's and of the labels.
        right: makes right ones.
        wrong: makes wrong ones.
        labels: of each batch.
    """
    found = Repeated()
    if again(wrong):
        found.right = [again(right) for _ in range(TIMES)]
    found.always = again(_class_one)
    if found.always:
        found.truth = [int(one) for batch in labels for one in batch]
    return found


def _class_one(logits: Any, labels: Any) -> Tensor | None:
    """Return logits that say class 1 for each row; None where rows have no single class."""
    import torch

    if not torch.is_tensor(logits) or not torch.is_tensor(labels):
        return None
    of_classes = logits.dim() == 2 and labels.dim() == 1 and logits.shape[1] > 1
    if not of_classes or labels.is_floating_point() or len(logits) != len(labels):
        return None
    made = torch.zeros_like(logits)
    made[:, 1] = 10.0
    return made
