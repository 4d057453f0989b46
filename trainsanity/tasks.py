"""The reference loss of each task, example by example, written from its formula.

Only single-label classification is judged so far; checks of another task are skipped with a
reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from .pipeline import Pipeline

SINGLE_LABEL = "single_label_classification"


def task_of(pipeline: Pipeline) -> str:
    """Decide as transformers does: by head, ``problem_type``, ``num_labels``, then label dtype."""
    name = type(pipeline.model).__name__
    config = pipeline.config
    if "ForSequenceClassification" not in name or config is None:
        return next(
            (
                task
                for ending, task in (
                    ("ForCausalLM", "causal_lm"),
                    ("LMHeadModel", "causal_lm"),
                    ("ForTokenClassification", "token_classification"),
                )
                if name.endswith(ending)
            ),
            "unknown",
        )
    if config.problem_type:
        return str(config.problem_type)
    if config.num_labels == 1:
        return "regression"
    if _label_is_integer(pipeline):
        return SINGLE_LABEL
    return "multi_label_classification"


def _label_is_integer(pipeline: Pipeline) -> bool:
    if not hasattr(pipeline.train_dataset, "__getitem__"):
        return True
    row = pipeline.train_dataset[0]
    column = pipeline.label_column(row)
    value: Any = row[column] if column else 0
    return not getattr(value, "is_floating_point", lambda: isinstance(value, float | list))()


def require_single_label(pipeline: Pipeline) -> None:
    """Skip unless the task has a reference loss here."""
    if pipeline.task != SINGLE_LABEL:
        raise Skip(f"no reference loss for the task {pipeline.task!r} yet")


def per_example_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each example: ``logsumexp(z_i) - z_i[y_i]`` in float64.

    Args:
        logits: ``[N, C]``, any floating dtype.
        labels: ``[N]``, integers in ``[0, C)``; others are ignored by the loss and refused here.

    Returns:
        ``[N]`` float64.
    """
    z = logits.double()
    return z.logsumexp(-1) - z.gather(-1, labels[:, None])[:, 0]


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the summed loss by the logits: ``softmax(z_i) - onehot(y_i)``.

    Returns:
        ``[N, C]`` float64.
    """
    r = logits.double().softmax(-1)
    r[range(len(labels)), labels] -= 1
    return r
