"""Dense prediction: a class for every pixel of a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import head_classes
from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, entropies, given, only
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

SEGMENTATION = "semantic_segmentation"

HEADS = ("ForSemanticSegmentation",)


@objective
@dataclass(frozen=True)
class Segmentation(OfOutputs):
    """Cross entropy of each pixel, with the outputs scaled up to the map of labels."""

    name: ClassVar[str] = SEGMENTATION
    item_word: ClassVar[str] = "pixels"
    reads: ClassVar[tuple[str, ...]] = ("logits",)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head gives each pixel a class."""
        return any(head in head_classes(pipeline) for head in HEADS)

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return the class that is not counted.

        Raises:
            Skip: an auxiliary head has a loss of its own, or there is one class alone.
        """
        config = getattr(trainer.model, "config", None)
        if getattr(config, "use_auxiliary_head", False):
            raise Skip("an auxiliary head adds a loss of its own")
        if getattr(config, "num_labels", 2) < 2:
            raise Skip("one class alone is a yes/no question, whose formula differs by model")
        if getattr(trainer, "label_smoother", None) is not None:
            raise Skip("label_smoothing_factor changes the formula")
        return {"ignored": int(getattr(config, "semantic_loss_ignore_index", 255))}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the pixels that are counted."""
        logits, labels = _maps(calls, inputs)
        return Terms.mean(_losses(_scaled(logits, labels), labels, settings["ignored"]))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of maps."""
        logits, labels = _maps(calls, inputs)
        ignored = settings["ignored"]
        scaled = _scaled(logits, labels)
        known = (labels >= 0) & (labels < logits.shape[1])
        counted = labels != ignored

        yield (
            "softmax is taken twice: the loss takes probabilities for logits",
            "give cross_entropy the raw logits",
            lambda: _losses(scaled.softmax(1), labels, ignored).mean(),
        )
        yield (
            "the loss is summed over the pixels and not averaged",
            'reduction="mean"',
            lambda: _losses(scaled, labels, ignored).sum(),
        )
        yield (
            "the loss is summed over the pixels of a picture",
            'reduction="mean"',
            lambda: _losses(scaled, labels, ignored).sum() / len(labels),
        )
        if not bool(counted.all()):
            yield (
                "pixels that are not counted are in the divisor: the sum is divided by all pixels",
                f"divide by the pixels whose label is not {ignored}",
                lambda: _losses(scaled, labels, ignored).sum() / labels.numel(),
            )
        # Class 0 is the background in most maps.
        if bool((labels[known] == 0).any()) and bool((labels[known] != 0).any()):
            yield (
                "class 0 is left out as if it were ignored",
                f"ignore_index={ignored}",
                lambda: _losses(scaled, labels.masked_fill(labels == 0, ignored), ignored).mean(),
            )
        yield (
            "outputs are scaled up with align_corners=True, half a pixel off the model's grid",
            "interpolate(logits, size=labels.shape[-2:], mode='bilinear', align_corners=False)",
            lambda: _losses(_scaled(logits, labels, corners=True), labels, ignored).mean(),
        )
        if labels.shape[-1] == labels.shape[-2]:
            turned = labels.transpose(1, 2)
            yield (
                "maps are transposed: rows of pixels are compared with columns of outputs",
                "labels of shape [B, H, W] beside logits of shape [B, C, H, W]",
                lambda: _losses(scaled, turned, ignored).mean(),
            )


def _maps(calls: Sequence[Call], inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    logits, (labels,) = only(calls).outputs["logits"], given(inputs, "labels")
    if logits.dim() != 4 or labels.dim() != 3 or len(logits) != len(labels):
        raise Skip("outputs and labels are not maps of shape [B, C, H, W] and [B, H, W]")
    return logits, labels.long()


def _scaled(logits: Tensor, labels: Tensor, *, corners: bool = False) -> Tensor:
    import torch

    return torch.nn.functional.interpolate(
        logits, size=labels.shape[-2:], mode="bilinear", align_corners=corners
    )


def _losses(scaled: Tensor, labels: Tensor, ignored: int) -> Tensor:
    kept = labels != ignored
    if not bool(kept.any()):
        raise Skip("no pixel of the micro-batch is counted")
    return entropies(scaled.movedim(1, -1)[kept], labels[kept])
