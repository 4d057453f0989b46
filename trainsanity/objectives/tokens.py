"""Classification of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import TOKENS, head_classes
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@objective
@dataclass(frozen=True)
class TokenClassification(CrossEntropy):
    """One class for each labelled token."""

    name: ClassVar[str] = TOKENS
    item_word: ClassVar[str] = "tokens"

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the head classifies tokens."""
        return "ForTokenClassification" in head_classes(pipeline)
