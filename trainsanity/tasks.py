"""The reference loss of each task, item by item, written from its formula.

An item is what the loss counts: an example for classification and regression of sequences, a token
for token classification and language models.  The reference is the mean over all items of an
optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .pipeline import has_places
from .types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from .pipeline import Pipeline

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
TOKENS = "token_classification"
CAUSAL_LM = "causal_lm"

IGNORED = -100
"""Labels of items that the loss does not count (``torch.nn.CrossEntropyLoss``'s ignore_index)."""

CHUNK = 256
"""Items whose float64 logits are held at once: a language model's vocabulary times this, in bytes
times eight, stays below half a gigabyte."""


@dataclass(frozen=True)
class Task:
    """What the loss of a pipeline is.

    Attributes:
        name: in the words of ``config.problem_type``, or ``token_classification``, ``causal_lm``.
        label_smoothing: ``TrainingArguments.label_smoothing_factor``.
    """

    name: str
    label_smoothing: float = 0.0

    @property
    def counts(self) -> str:
        """What an item is called."""
        return "tokens" if self.name in (TOKENS, CAUSAL_LM) else "examples"

    def items(self, values: Tensor, labels: Tensor) -> Tensor:
        """The rows of ``values`` (``[B, ...]`` or ``[B, T, ...]``) that belong to counted items.

        A language model's position t predicts the label at t + 1; what is ignored is left out.
        """
        if self.name == CAUSAL_LM:
            values, labels = values[:, :-1], labels[:, 1:]
        if self.name in (SINGLE_LABEL, TOKENS, CAUSAL_LM):
            kept: Tensor = values[labels != IGNORED]
            return kept
        return values

    def targets(self, labels: Tensor) -> Tensor:
        """The labels of the counted items: ``[M]``, or ``[M, C]`` for vectors of targets."""
        if self.name == CAUSAL_LM:
            labels = labels[:, 1:]
        if self.name in (SINGLE_LABEL, TOKENS, CAUSAL_LM):
            return labels[labels != IGNORED]
        return labels[:, None] if self.name == REGRESSION and labels.dim() == 1 else labels

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each item, ``[M]`` float64 on the CPU.

        Cross entropy ``logsumexp(z) - z_y``, smoothed to ``(1 - e) CE + e mean_c(-log p_c)``;
        binary cross entropy and squared error as means over the C outputs of an item.
        """
        import torch

        parts = [
            self.item_losses(z.double(), y).cpu()
            for z, y in zip(
                logits.split(CHUNK), targets.to(logits.device).split(CHUNK), strict=True
            )
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def item_losses(self, z: Tensor, y: Tensor) -> Tensor:
        """The same in the dtype of the logits ``z`` and all at once, to be differentiated."""
        import torch

        if self.name == REGRESSION:
            squared: Tensor = ((z - y) ** 2).mean(-1)
            return squared
        if self.name == MULTI_LABEL:
            binary = torch.nn.functional.binary_cross_entropy_with_logits
            return binary(z, y.to(z.dtype), reduction="none").mean(-1)
        normalizer = z.logsumexp(-1)
        entropy: Tensor = normalizer - z.gather(-1, y[:, None])[:, 0]
        if not self.label_smoothing:  # a language model's mean over its vocabulary is dear
            return entropy
        uniform = normalizer - z.mean(-1)
        return (1 - self.label_smoothing) * entropy + self.label_smoothing * uniform

    def residual(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The derivative of the summed item losses by the logits, ``[M, C]`` float64.

        ``softmax(z) - onehot(y)`` (smoothed: minus ``(1 - e) onehot + e / C``),
        ``(sigmoid(z) - y) / C``, ``2 (z - y) / C``.
        """
        z, size = logits.double(), logits.shape[-1]
        if self.name == REGRESSION:
            return 2 * (z - targets) / size
        if self.name == MULTI_LABEL:
            return (z.sigmoid() - targets) / size
        r = z.softmax(-1)
        r[range(len(targets)), targets] -= 1 - self.label_smoothing
        return r - self.label_smoothing / size


def task_of(pipeline: Pipeline) -> Task:
    """Decide as transformers does: by head, ``problem_type``, ``num_labels``, then label dtype."""
    smoothing = float(getattr(pipeline.args, "label_smoothing_factor", 0.0) or 0.0)
    return Task(_name_of(pipeline), smoothing)


def _name_of(pipeline: Pipeline) -> str:
    model = pipeline.model
    if hasattr(model, "get_base_model"):  # PEFT wraps the model that has the head
        model = model.get_base_model()
    classes = " ".join(cls.__name__ for cls in type(model).__mro__)
    config = pipeline.config
    if "ForTokenClassification" in classes:
        return TOKENS
    if "ForCausalLM" in classes or "LMHeadModel" in classes:
        return CAUSAL_LM
    if "ForSequenceClassification" not in classes or config is None:
        return "unknown"
    if config.problem_type:
        return str(config.problem_type)
    if config.num_labels == 1:
        return REGRESSION
    return SINGLE_LABEL if _label_is_integer(pipeline) else MULTI_LABEL


def _label_is_integer(pipeline: Pipeline) -> bool:
    row = _first_row(pipeline.train_dataset)
    column = pipeline.label_column(row) if isinstance(row, Mapping) else None
    value: Any = row[column] if column else 0
    plain = value.tolist() if hasattr(value, "tolist") else value
    return not isinstance(plain, float | list)


def _first_row(dataset: Any) -> Any:
    """Of a stream, too, which begins anew for whoever asks; making it may use random numbers."""
    from .measurements.state import random_states

    put_back = random_states()
    try:
        return dataset[0] if has_places(dataset) else next(iter(dataset), None)
    except (Exception, SystemExit):  # the scan reads the rows, too, and says what is wrong
        return None
    finally:
        put_back()


def known(task: Task) -> bool:
    """Whether the task's loss has a reference here."""
    return task.name in (SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKENS, CAUSAL_LM)


def require_single_label(pipeline: Pipeline) -> None:
    """Skip unless the task is single-label classification of sequences."""
    if pipeline.task.name != SINGLE_LABEL:
        raise Skip(f"defined for single-label classification, not for {pipeline.task.name}")
