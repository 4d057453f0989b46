"""Special tokens as the Trainer sets them when it begins to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def align_special_tokens(pipeline: Pipeline) -> None:
    """Align the model's config as ``Trainer.train()`` does before the first step, if it does.

    It came as ``Trainer._align_special_tokens`` and moved to ``trainer_utils`` in 5.x; before
    that the config stayed as it was.
    """
    from transformers import PreTrainedTokenizerBase, ProcessorMixin, trainer_utils

    trainer = pipeline.trainer
    if trainer is None or not hasattr(pipeline.model, "config"):
        return
    # A feature extractor or an image processor has no special tokens, and is left alone.
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase | ProcessorMixin):
        return
    if hasattr(trainer_utils, "align_special_tokens"):
        trainer_utils.align_special_tokens(pipeline.model, trainer.processing_class)
    elif hasattr(trainer, "_align_special_tokens"):
        trainer._align_special_tokens()
