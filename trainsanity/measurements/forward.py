"""One evaluation forward over the first optimizer step's rows, as the Trainer would run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..tasks import Task, require_single_label
from ..types import Cost, Skip
from .batch import Batch, quiet
from .head import Pooled, find_head, watched
from .state import preserved
from .store import measurement

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class Forward:
    """The batch's logits without dropout.

    Attributes:
        passes: one per micro-batch.
        logits: ``[N, C]`` float64 on the CPU.
        labels: ``[N]`` on the CPU.
        vectors: ``[N, H]`` float64 on the CPU, what the head was given; None if not found.
        head_name: the head's name in ``named_modules()``.
    """

    passes: list[Pooled]
    logits: Tensor
    labels: Tensor
    vectors: Tensor | None
    head_name: str
    task: Task

    @cached_property
    def losses(self) -> Tensor:
        """``[N]`` float64, the reference loss of each example; labels must be in range."""
        return self.task.losses(self.logits, self.labels)


@measurement(Cost.FORWARD)
def forward(pipeline: Pipeline, batch: Batch) -> Forward:
    """Run the micro-batches through the model in eval mode."""
    import torch

    require_single_label(pipeline)
    if any("labels" not in micro.inputs for micro in batch):
        raise Skip("the batch has no labels")
    name, head = find_head(pipeline)
    with as_trained(pipeline), watched(pipeline.model, head) as watch:
        for micro in batch:
            pipeline.model(**without_labels(micro.inputs))
    passes = [one for one in watch.passes if one is not None]
    if len(passes) < len(watch.passes):
        raise Skip("the model returns no logits")
    logits = torch.cat([one.logits.double().cpu() for one in passes])
    vectors = [one.vector for one in passes]
    return Forward(
        passes,
        logits,
        torch.cat([micro.inputs["labels"].cpu() for micro in batch]),
        None
        if any(v is None for v in vectors)
        else torch.cat([v.double().cpu() for v in vectors if v is not None]),
        name,
        pipeline.task,
    )


def without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs alone."""
    return {key: value for key, value in inputs.items() if key != "labels"}


@contextmanager
def as_trained(pipeline: Pipeline) -> Iterator[None]:
    """The model as ``train()`` would have it, for looking only.

    Special tokens aligned by the library's own code where it does that inside ``train()``, the
    Trainer's autocast, eval mode, no gradients.
    """
    import torch

    with preserved(pipeline), quiet(pipeline), torch.no_grad():
        align_special_tokens(pipeline)
        pipeline.model.eval()
        trainer = pipeline.trainer
        if trainer is not None:
            with trainer.accelerator.autocast():
                yield
        else:
            yield


def align_special_tokens(pipeline: Pipeline) -> None:
    """What ``Trainer.train()`` does to the model's config before the first step, if it does.

    It came as ``Trainer._align_special_tokens`` and moved to ``trainer_utils`` in 5.x; before
    that the config stayed as it was.
    """
    from transformers import trainer_utils

    trainer = pipeline.trainer
    if trainer is None or trainer.processing_class is None:
        return
    if hasattr(trainer_utils, "align_special_tokens"):
        trainer_utils.align_special_tokens(pipeline.model, trainer.processing_class)
    elif hasattr(trainer, "_align_special_tokens"):
        trainer._align_special_tokens()
