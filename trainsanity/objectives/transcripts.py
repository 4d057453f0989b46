"""Connectionist temporal classification (CTC): letters of a sound, whose places are not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import head_classes
from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, given, only
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

CTC = "ctc"


@objective
@dataclass(frozen=True)
class Transcripts(OfOutputs):
    """The negative log-probability of a row's letters, over all ways to place them in its frames.

    ``config.ctc_loss_reduction`` says whether rows are summed, or each divided by its letters and
    averaged.
    """

    name: ClassVar[str] = CTC
    item_word: ClassVar[str] = "transcripts"
    reads: ClassVar[tuple[str, ...]] = ("logits",)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head writes letters without their places."""
        return "ForCTC" in head_classes(pipeline)

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return the blank, the reduction, and how many frames a sound of a length has.

        Raises:
            Skip: the model does not say how many frames it makes.
        """
        model = trainer.accelerator.unwrap_model(trainer.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = model.config
        frames = getattr(model, "_get_feat_extract_output_lengths", None) or getattr(
            model, "_get_subsampling_output_length", None
        )
        reduction = getattr(config, "ctc_loss_reduction", None)
        if frames is None or reduction not in ("sum", "mean") or config.pad_token_id is None:
            raise Skip("the model does not say how many frames it makes, its blank or reduction")
        if getattr(trainer, "label_smoother", None) is not None:
            raise Skip("label_smoothing_factor changes the formula")
        return {
            "frames": frames,
            "blank": int(config.pad_token_id),
            "reduction": reduction,
            "infinite_is_zero": bool(getattr(config, "ctc_zero_infinity", False)),
        }

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the rows, each weighed as the reduction has it."""
        rows = _rows(calls, inputs, settings)
        import torch

        losses = _losses(rows, settings)
        if settings["reduction"] == "sum":
            return Terms(losses, torch.ones_like(losses.detach()))
        return Terms(losses, 1 / (rows.letters.clamp(min=1) * len(losses)))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of transcripts."""
        import torch

        rows = _rows(calls, inputs, settings)
        reduction = settings["reduction"]

        def of(letters: Tensor | None = None, **changes: Any) -> Tensor:
            losses = _losses(rows, settings, **changes)
            if reduction == "sum":
                return losses.sum()
            return (losses / (rows.letters if letters is None else letters).clamp(min=1)).mean()

        full = torch.full_like(rows.frames, rows.logits.shape[1])
        if not torch.equal(full, rows.frames):
            yield (
                "frames of the padding are counted: each row has as many as the longest",
                "input_lengths from the attention mask, as the model's own loss takes them",
                lambda: of(frames=full),
            )
        yield (
            "log_softmax is left out: the loss takes logits for logarithms of probabilities",
            "logits.log_softmax(-1)",
            lambda: of(logarithms=rows.logits),
        )
        yield (
            "softmax in place of log_softmax",
            "logits.log_softmax(-1)",
            lambda: of(logarithms=rows.logits.softmax(-1)),
        )
        if reduction == "mean":
            yield (
                "rows are summed, where config.ctc_loss_reduction is 'mean'",
                'reduction="mean"',
                lambda: _losses(rows, settings).sum(),
            )
            yield (
                "rows are averaged without being divided by their letters",
                'reduction="mean" of ctc_loss, which divides by target_lengths',
                lambda: _losses(rows, settings).mean(),
            )
        # Class 0 is what torch takes for the blank where nobody says another.
        if settings["blank"] and not bool((rows.targets == 0).any()):
            yield (
                "the blank is class 0, which is a letter of this vocabulary",
                f"blank={settings['blank']} (config.pad_token_id)",
                lambda: of(blank=0),
            )


@dataclass(frozen=True)
class Rows:
    """What a CTC loss is given.

    Attributes:
        logits: ``[B, T, C]``.
        targets: letters of all rows, one behind the other.
        letters, frames: how many each row has, ``[B]``.
    """

    logits: Tensor
    targets: Tensor
    letters: Tensor
    frames: Tensor


def _rows(calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
    import torch

    logits, (labels,) = only(calls).outputs["logits"], given(inputs, "labels")
    if logits.dim() != 3 or labels.dim() != 2 or len(logits) != len(labels):
        raise Skip("outputs and labels are not rows of frames and of letters")
    mask = inputs.get("attention_mask")
    sound = next((inputs[name] for name in ("input_values", "input_features") if name in inputs),
                 None)  # fmt: skip
    if torch.is_tensor(mask) and mask.dim() == 2:
        lengths = mask.sum(-1)
    elif torch.is_tensor(sound):
        lengths = torch.full((len(sound),), sound.shape[1], device=logits.device)
    else:
        raise Skip("the batch holds neither a mask nor a sound: its lengths are not known")
    frames = settings["frames"](lengths).to(torch.long)
    kept = labels >= 0
    return Rows(logits, labels[kept], kept.sum(-1), frames.clamp(max=logits.shape[1]))


def _losses(
    rows: Rows,
    settings: Mapping[str, Any],
    *,
    frames: Tensor | None = None,
    logarithms: Tensor | None = None,
    blank: int | None = None,
) -> Tensor:
    """Return the loss of each row: the forward algorithm, in the dtype of the logits."""
    import torch

    values = rows.logits.log_softmax(-1) if logarithms is None else logarithms
    with torch.backends.cudnn.flags(enabled=False):
        return torch.nn.functional.ctc_loss(
            values.transpose(0, 1),
            rows.targets,
            rows.frames if frames is None else frames,
            rows.letters,
            blank=settings["blank"] if blank is None else blank,
            reduction="none",
            zero_infinity=settings["infinite_is_zero"],
        )
