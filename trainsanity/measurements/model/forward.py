"""One evaluation forward over the first optimizer step's rows, as the Trainer would run it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.model.head import Pooled, find_head, watched
from trainsanity.measurements.model.raiser import gathered
from trainsanity.objectives.base import Objective, require_single_label
from trainsanity.pipeline import micro_batches_of, unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds")


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
    task: Objective

    @cached_property
    def losses(self) -> Tensor:
        """Float64, the reference loss of each example with a label, which must be in range."""
        self.task.require_fit(self.logits, self.labels)
        return self.task.losses(*self.labelled)

    @cached_property
    def labelled(self) -> tuple[Tensor, Tensor]:
        """Return logits and labels of the rows that have a label.

        Raises:
            Skip: none has.
        """
        told = self.labels >= 0
        if not bool(told.any()):
            raise Skip("no row of the first step has a label")
        return self.logits[told], self.labels[told]


@measurement(Cost.FORWARD, forwards=micro_batches_of)
def forward(pipeline: Pipeline, batch: Batch) -> Forward:
    """Run the micro-batches through the model in eval mode."""
    import torch

    require_single_label(objective_of(pipeline))
    if any("labels" not in micro.inputs for micro in batch):
        raise Skip("the batch has no labels")
    name, head = find_head(pipeline)
    with as_trained(pipeline), watched(pipeline.model, head) as watch:
        for micro in batch:
            outputs_without(pipeline.model, without_labels(micro.inputs), micro.inputs)
    passes = [one for one in watch.passes if one is not None]
    if len(passes) < len(watch.passes):
        raise Skip("the model returns no logits")
    logits = torch.cat([one.logits.double().cpu() for one in passes])
    vectors = [one.vector for one in passes]
    labels = torch.cat([micro.inputs["labels"].cpu() for micro in batch])
    return Forward(
        passes,
        logits,
        labels,
        None
        if any(v is None for v in vectors)
        else torch.cat([v.double().cpu() for v in vectors if v is not None]),
        name,
        objective_of(pipeline),
    )


def outputs_without(model: Any, inputs: dict[str, Any], labelled: dict[str, Any]) -> Any:
    """Return what a model makes of inputs without labels.

    Args:
        model: the model.
        inputs: without labels.
        labelled: the same with labels.

    Raises:
        Skip: it raises, and does not with labels: its forward computes the loss in any case.
    """
    try:
        return model(**inputs)
    except Exception as error:
        try:
            model(**labelled)
        except Exception:
            raise error from None
        raise Skip(f"{type(model).__name__} raises without labels: {first_line(error)}") from error


def without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    """The model's inputs alone."""
    return {key: value for key, value in inputs.items() if key != "labels"}


def predicting(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs without labels, with which the model predicts what it is trained on.

    An encoder-decoder is given the targets before each; some make these of the labels, inside
    their forward or, with a collator that knows the model, before it.
    """
    import torch

    found, labels = without_labels(inputs), inputs.get("labels")
    inner = unwrapped(model)
    make = getattr(inner, "prepare_decoder_input_ids_from_labels", None) or _shift(inner)
    given = any(found.get(name) is not None for name in DECODER_INPUTS)
    # Labels of classes have no positions: a decoder is not shown them.
    if callable(make) and not given and torch.is_tensor(labels) and labels.dim() > 1:
        found["decoder_input_ids"] = make(labels=labels)
    return found


def _shift(model: Any) -> Callable[..., Tensor] | None:
    """Return the shift that a model's forward makes of labels by a function of its module.

    Whisper, BART and their like have no method for it; None where there is no such function.
    """
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        return None
    modules = [sys.modules.get(cls.__module__) for cls in type(model).__mro__]
    shift = next(filter(None, (getattr(one, "shift_tokens_right", None) for one in modules)), None)
    if shift is None:
        return None
    names = ("pad_token_id", "decoder_start_token_id")[
        : len(inspect.signature(shift).parameters) - 1
    ]
    ids = [getattr(config, name, None) for name in names]
    return None if any(one is None for one in ids) else lambda labels: shift(labels, *ids)


@contextmanager
def as_trained(
    pipeline: Pipeline, *, autocast: bool = True, gathers: bool = True
) -> Iterator[None]:
    """The model as ``train()`` would have it, for looking only.

    Special tokens aligned by the library's own code where it does that inside ``train()``, the
    Trainer's autocast unless it is not wanted, eval mode, no gradients.  A model that is in parts
    and has no engine yet is gathered, unless somebody else does.
    """
    import torch

    whole = gathered(pipeline.model) if gathers else nullcontext()
    with preserved(pipeline), quiet(pipeline), torch.no_grad(), whole:
        align_special_tokens(pipeline)
        pipeline.model.eval()
        trainer = pipeline.trainer
        if trainer is not None and autocast:
            with trainer.accelerator.autocast():
                yield
        else:
            yield
