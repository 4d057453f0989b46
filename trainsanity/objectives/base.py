"""The loss of a pipeline: its items, their reference losses, and the residual.

An item is what the loss counts: an example for classification and regression of sequences, a token
for token classification and language models.  The reference is the mean over all items of an
optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.pipeline import unwrapped
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
TOKENS = "token_classification"
CAUSAL_LM = "causal_lm"
UNKNOWN = "unknown"
CUSTOM = "custom"
"""Declared by the user: the loss is one of their own, and the laws alone judge it."""

IGNORED = -100
"""Labels of items that the loss does not count (``torch.nn.CrossEntropyLoss``'s ignore_index)."""

CHUNK = 256
"""Items whose float64 logits are held at once: a language model's vocabulary times this, in bytes
times eight, stays below half a gigabyte."""


@dataclass(frozen=True)
class Objective:
    """The loss of a pipeline; the base class is the objective that nobody recognised.

    A subclass states its formulas and is registered with
    :func:`trainsanity.objectives.registry.objective`.

    Attributes:
        name: in the words of ``config.problem_type``, or ``token_classification``, ``causal_lm``.
        item_word: what an item is called, in the plural.
        of_rows: whether an item is a row, rather than a position in it.
        shifts: whether position t predicts the label at t + 1.
        beside_inputs: whether labels of tokens lie beside the model's input tokens.
        of_words: whether the classes are the words of the vocabulary.
        of_choices: whether the classes are choices of the row, each with a pass of its own, and the
            head has one output whatever ``num_labels`` is.
        known: whether the reference loss is known.
        additive: whether the loss of a batch is a mean over its rows.
        by_trainer: whether it is known by the Trainer's class, before the model's class is asked.
        label_smoothing: ``TrainingArguments.label_smoothing_factor``.
    """

    name: ClassVar[str] = UNKNOWN
    item_word: ClassVar[str] = "examples"
    of_rows: ClassVar[bool] = False
    shifts: ClassVar[bool] = False
    beside_inputs: ClassVar[bool] = True
    of_words: ClassVar[bool] = False
    of_choices: ClassVar[bool] = False
    known: ClassVar[bool] = False
    additive: ClassVar[bool] = True
    by_trainer: ClassVar[bool] = False

    label_smoothing: float = 0.0

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the pipeline is trained for this objective."""
        del pipeline
        return False

    def fits(self, logits: Tensor, labels: Tensor) -> bool:
        """Return whether labels have the type and number that this loss takes beside logits."""
        del logits, labels
        return True

    def require_fit(self, logits: Tensor, labels: Tensor) -> None:
        """Stop where labels are of another kind than this loss takes: it is not what is trained.

        Raises:
            Skip: a ``compute_loss`` of the user's own takes them, as shares of classes or a list of
                grades for each query.
            ValueError: it is the logits that have no axis of classes.
        """
        if not self.fits(logits, labels):
            if logits.dim() < 2:
                raise ValueError(f"logits of shape {tuple(logits.shape)} have no axis of classes")
            raise Skip(
                f"the batch's labels, {str(labels.dtype).removeprefix('torch.')} of shape "
                f"{tuple(labels.shape)} for logits of {tuple(logits.shape)}, are not those of "
                f"{self.name}: the loss is another one"
            )

    def items(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the rows of ``values`` that belong to counted items.

        Args:
            values: ``[B, ...]`` or ``[B, T, ...]``.
            labels: ``[B]``, ``[B, C]`` or ``[B, T]``.
        """
        del labels
        return values

    def targets(self, labels: Tensor) -> Tensor:
        """Return the labels of the counted items: ``[M]``, or ``[M, C]`` for vectors of targets."""
        return labels

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each item, ``[M]`` float64 on the CPU."""
        import torch

        parts = [
            self.item_losses(z.double(), y).cpu()
            for z, y in zip(
                logits.split(CHUNK), targets.to(logits.device).split(CHUNK), strict=True
            )
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def item_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each item in the dtype of the logits ``z``, differentiable.

        Raises:
            Skip: the objective has no reference loss.
        """
        raise Skip(f"no reference loss for the objective {self.name}")

    def library_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return :meth:`item_losses` as torch's own function computes them, with its rounding."""
        return self.item_losses(z, y)

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of the summed item losses by the logits, ``[M, C]`` float64.

        Raises:
            Skip: the objective has no closed form.
        """
        raise Skip(f"no closed form of the gradient for the objective {self.name}")


def head_classes(pipeline: Pipeline) -> str:
    """Return the names of the classes of the model that has the head, joined by blanks."""
    return " ".join(cls.__name__ for cls in type(unwrapped(pipeline.model)).__mro__)


def require_single_label(objective: Objective) -> None:
    """Skip unless the objective is single-label classification of sequences."""
    if objective.name != SINGLE_LABEL:
        raise Skip(f"defined for single-label classification, not for {objective.name}")
