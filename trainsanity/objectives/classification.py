"""Classification and regression of whole rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.forwards import classifier
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.random_states import first_row
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.whole_batches import rows_of_batches
from trainsanity.objectives.base import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Objective,
    head_classes,
)
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


MULTIPLE_CHOICE = "multiple_choice"

LIBRARIES = ("transformers.", "trl.", "sentence_transformers.")
"""Whose collators leave the class of a row as it is."""

HEADS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")
"""Heads whose loss transformers chooses by ``problem_type``, whatever the rows hold."""


def problem_type(pipeline: Pipeline) -> str | None:
    """Return what transformers decides: by ``problem_type``, ``num_labels``, then label dtype.

    None for a model without a head that classifies rows.
    """
    config = pipeline.config
    classes = head_classes(pipeline)
    if config is None or not any(head in classes for head in HEADS):
        return None
    if config.problem_type:
        return str(config.problem_type)
    if config.num_labels == 1:
        return REGRESSION
    return SINGLE_LABEL if _label_is_integer(pipeline) else MULTI_LABEL


def own_classifier(pipeline: Pipeline) -> bool:
    """Return whether the user's own module classifies rows, by the code of its forward.

    It has no config, its loss is the plain cross entropy of what it returns, and the Trainer's own
    ``compute_loss`` takes that.
    """
    trainer, model = pipeline.trainer, unwrapped(pipeline.model)
    if pipeline.config is not None or trainer is None:
        return False
    if own_methods(trainer, ("compute_loss",)) or getattr(trainer, "compute_loss_func", None):
        return False
    row = first_row(rows_of_batches(pipeline, pipeline.train_dataset))
    column = pipeline.label_column(row) if isinstance(row, Mapping) else None
    value: Any = row[column] if column else None
    plain = value.tolist() if hasattr(value, "tolist") else value
    return isinstance(plain, int) and classifier(model) is not None


def _label_is_integer(pipeline: Pipeline) -> bool:
    row = first_row(rows_of_batches(pipeline, pipeline.train_dataset))
    column = pipeline.label_column(row) if isinstance(row, Mapping) else None
    value: Any = row[column] if column else 0
    plain = value.tolist() if hasattr(value, "tolist") else value
    return not isinstance(plain, float | list) and not _shares_are_made(pipeline, row)


def _shares_are_made(pipeline: Pipeline, row: Any) -> bool:
    """Return whether the user's own collator makes a share for each class of a row's class.

    As MixUp and label smoothing do it: transformers decides by the labels that reach the model.
    """
    collator = pipeline.data_collator
    module = str(getattr(collator, "__module__", ""))
    if collator is None or not isinstance(row, Mapping) or module.startswith(LIBRARIES):
        return False
    with preserved(pipeline):
        try:
            made = collator([copy.deepcopy(row)])
        except Exception:  # it may need more of rows than one, or other columns
            return False
    labels: Any = made.get("labels") if isinstance(made, Mapping) else None
    shape = tuple(getattr(labels, "shape", ()))
    return shape == (1, pipeline.config.num_labels) and bool(labels.is_floating_point())


@objective
@dataclass(frozen=True)
class SingleLabel(CrossEntropy):
    """One class of several for a row."""

    name: ClassVar[str] = SINGLE_LABEL
    of_rows: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head classifies rows by one label."""
        return problem_type(pipeline) == SINGLE_LABEL or own_classifier(pipeline)


@objective
@dataclass(frozen=True)
class MultipleChoice(CrossEntropy):
    """One of several endings of a row, each with a score of its own."""

    name: ClassVar[str] = MULTIPLE_CHOICE
    item_word: ClassVar[str] = "questions"
    of_rows: ClassVar[bool] = True
    of_choices: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head scores the choices of a row."""
        return "ForMultipleChoice" in head_classes(pipeline)


@objective
@dataclass(frozen=True)
class MultiLabel(Objective):
    """Any number of classes for a row: binary cross entropy, a mean over the C outputs."""

    name: ClassVar[str] = MULTI_LABEL
    of_rows: ClassVar[bool] = True
    known: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head classifies rows by several labels."""
        return problem_type(pipeline) == MULTI_LABEL

    def fits(self, logits: Tensor, labels: Tensor) -> bool:
        """Return whether there is a label for each output."""
        return len(labels) == len(logits) and labels.numel() == logits.numel()

    def item_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the mean binary cross entropy of each row, ``[M]`` in the dtype of ``z``."""
        import torch

        binary = torch.nn.functional.binary_cross_entropy_with_logits
        return binary(z, y.to(z.dtype), reduction="none").mean(-1)

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``(sigmoid(z) - y) / C``."""
        return (logits.double().sigmoid() - targets) / logits.shape[-1]


@objective
@dataclass(frozen=True)
class Regression(Objective):
    """Numbers for a row: squared error, a mean over the C outputs."""

    name: ClassVar[str] = REGRESSION
    of_rows: ClassVar[bool] = True
    known: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head gives numbers."""
        return problem_type(pipeline) == REGRESSION

    def fits(self, logits: Tensor, labels: Tensor) -> bool:
        """Return whether there is a number for each output."""
        return len(labels) == len(logits) and labels.numel() == logits.numel()

    def targets(self, labels: Tensor) -> Tensor:
        """Return the numbers, ``[M, C]``."""
        return labels[:, None] if labels.dim() == 1 else labels

    def item_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error of each row, ``[M]`` in the dtype of ``z``."""
        squared: Tensor = ((z - y) ** 2).mean(-1)
        return squared

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``2 (z - y) / C``."""
        return 2 * (logits.double() - targets) / logits.shape[-1]
