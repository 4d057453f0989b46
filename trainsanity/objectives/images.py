"""Classification of whole pictures and sounds, by heads that are named after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import head_classes
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

IMAGES = "image_classification"
AUDIO = "audio_classification"


def _several_classes(pipeline: Pipeline) -> bool:
    """Return whether the config leads to one class of several, as the model's own loss decides."""
    config = pipeline.config
    kind = getattr(config, "problem_type", None)
    return kind in (None, "single_label_classification") and getattr(config, "num_labels", 0) > 1


@objective
@dataclass(frozen=True)
class ImageClassification(CrossEntropy):
    """One class of several for a picture."""

    name: ClassVar[str] = IMAGES
    of_rows: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head classifies pictures by one label."""
        return "ForImageClassification" in head_classes(pipeline) and _several_classes(pipeline)


@objective
@dataclass(frozen=True)
class AudioClassification(CrossEntropy):
    """One class of several for a sound; frames are pooled before the head."""

    name: ClassVar[str] = AUDIO
    item_word: ClassVar[str] = "sounds"
    of_rows: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head classifies sounds by one label."""
        return "ForAudioClassification" in head_classes(pipeline) and _several_classes(pipeline)
