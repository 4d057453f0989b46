"""Losses that people write by mistake, to be recognised by their value.

Each takes the whole logits and labels of one batch and returns the scalar that the mistake gives,
or None where it is not defined. A name is claimed only if no other mistake has the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainsanity.objectives.base import IGNORED, Objective

if TYPE_CHECKING:
    from torch import Tensor

NOT_SHIFTED = "labels are not shifted: each position is to predict its own token"
"""Right where the labels are the next tokens already."""

Formula = Callable[[Objective, "Tensor", "Tensor"], "float | None"]


def _items(objective: Objective, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return objective.items(logits, labels).double(), objective.targets(labels)


def _mean(objective: Objective, logits: Tensor, targets: Tensor) -> float | None:
    return float(objective.losses(logits, targets).mean()) if len(targets) else None


def _classes(objective: Objective, targets: Tensor) -> bool:
    return targets.dim() == 1 and not targets.is_floating_point() and not objective.label_smoothing


def softmax_twice(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return cross entropy of probabilities that were taken for logits."""
    z, y = _items(objective, logits, labels)
    return _mean(objective, z.softmax(-1), y) if _classes(objective, y) else None


def log_softmax_left_out(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the negative logit of the target, as ``nll_loss`` of logits has it."""
    z, y = _items(objective, logits, labels)
    return float(-z.gather(-1, y[:, None]).mean()) if _classes(objective, y) and len(y) else None


def sum_for_mean(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the sum over items."""
    z, y = _items(objective, logits, labels)
    return float(objective.losses(z, y).sum()) if len(y) > 1 else None


def rows_summed(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean over rows of each row's sum over its items."""
    z, y = _items(objective, logits, labels)
    if objective.of_rows or labels.dim() != 2 or len(y) <= len(labels):
        return None
    return float(objective.losses(z, y).sum()) / len(labels)


def padding_counted(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the sum over counted items divided by all positions."""
    z, y = _items(objective, logits, labels)
    if objective.of_rows or not len(y) or len(y) == labels.numel():
        return None
    return float(objective.losses(z, y).sum()) / labels.numel()


def padding_counted_after_the_shift(
    objective: Objective, logits: Tensor, labels: Tensor
) -> float | None:
    """Return the sum over counted items divided by all positions that predict something."""
    z, y = _items(objective, logits, labels)
    if not objective.shifts or labels.dim() != 2 or len(y) in (0, labels[:, 1:].numel()):
        return None
    return float(objective.losses(z, y).sum()) / labels[:, 1:].numel()


def counted_before_the_shift(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the sum over shifted items divided by the labels before the shift."""
    z, y = _items(objective, logits, labels)
    before = int((labels != IGNORED).sum())
    if not objective.shifts or before == len(y) or not before:
        return None
    return float(objective.losses(z, y).sum()) / before


def not_shifted(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the loss of each position against its own token."""
    return _shifted_by(objective, logits, labels, 0)


def shifted_once(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the loss of each position against the next label, where its own lies beside it."""
    return None if objective.shifts else _shifted_by(objective, logits, labels, 1)


def shifted_twice(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the loss of each position against the token after the next."""
    return _shifted_by(objective, logits, labels, 2) if objective.shifts else None


def _shifted_by(objective: Objective, logits: Tensor, labels: Tensor, by: int) -> float | None:
    if objective.of_rows or labels.dim() != 2 or by == (1 if objective.shifts else 0):
        return None
    z, y = logits[:, : labels.shape[1] - by], labels[:, by:]
    kept = y != IGNORED
    return _mean(objective, z[kept].double(), y[kept]) if bool(kept.any()) else None


def targets_broadcast(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the squared error of ``[B, 1]`` outputs against ``[B]`` targets: all pairs."""
    if not labels.is_floating_point() or labels.dim() != 1 or logits.shape[-1:] != (1,):
        return None
    return float(((logits.double().reshape(-1, 1) - labels.double()) ** 2).mean())


def mean_of_row_means(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return the mean over rows of each row's mean: a choice, where rows count alike."""
    if objective.of_rows or labels.dim() != 2:
        return None
    means = []
    for row, label in zip(logits, labels, strict=True):
        z, y = _items(objective, row[None], label[None])
        if len(y):
            means.append(float(objective.losses(z, y).mean()))
    return sum(means) / len(means) if means else None


def one_hot_entropy(objective: Objective, logits: Tensor, labels: Tensor) -> float | None:
    """Return binary cross entropy of each class against one-hot targets."""
    import torch

    z, y = _items(objective, logits, labels)
    if not _classes(objective, y) or not len(y):
        return None
    hot = torch.nn.functional.one_hot(y, z.shape[-1]).double()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(z, hot))


WRONG: dict[str, Formula] = {
    "softmax is taken twice: the loss takes probabilities for logits": softmax_twice,
    "the log-softmax is left out: the loss is the negative logit": log_softmax_left_out,
    "the loss is summed over the items and not averaged": sum_for_mean,
    "the loss is summed over the tokens of a row": rows_summed,
    "padding is counted: the sum is divided by all positions": padding_counted,
    "padding is counted: the sum is divided by all positions that predict one": (
        padding_counted_after_the_shift
    ),
    "the items are counted before the shift": counted_before_the_shift,
    NOT_SHIFTED: not_shifted,
    "labels are shifted twice: each position is to predict the token after the next": shifted_twice,
    "labels are shifted that lie beside their outputs already: each position is to predict the "
    "token after the next": shifted_once,
    "targets are broadcast: every output is compared with every target": targets_broadcast,
    "each class is a yes/no question: binary cross entropy on one-hot targets": one_hot_entropy,
}
"""By what a user is told. A mistake is recognised if the loss equals its value."""


Batches = Sequence[tuple["Tensor", "Tensor"]]
"""Whole logits and labels of each micro-batch."""


def mean_over(formula: Formula, objective: Objective, batches: Batches) -> float | None:
    """Return the mean of a formula's values over micro-batches; None where one has none."""
    values = [formula(objective, logits, labels) for logits, labels in batches]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def recognised(objective: Objective, batches: Batches, loss: float, allowed: float) -> str:
    """Return the one mistake whose value the loss has; empty if none has it, or several."""
    found = []
    for name, formula in WRONG.items():
        value = mean_over(formula, objective, batches)
        if value is not None and abs(value - loss) <= allowed:
            found.append(name)
    return found[0] if len(found) == 1 else ""
