"""Language models that predict tokens where they stand: masked ones, and encoder-decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import head_classes
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MASKED_LM = "masked_lm"
SEQ2SEQ = "seq2seq_lm"


@objective
@dataclass(frozen=True)
class MaskedLM(CrossEntropy):
    """The token that was masked, at its own position."""

    name: ClassVar[str] = MASKED_LM
    item_word: ClassVar[str] = "tokens"
    of_words: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the model fills in masked tokens."""
        return "ForMaskedLM" in head_classes(pipeline)


@objective
@dataclass(frozen=True)
class SequenceToSequence(CrossEntropy):
    """The next token of the target; the decoder's inputs are shifted, and the labels are not."""

    name: ClassVar[str] = SEQ2SEQ
    item_word: ClassVar[str] = "tokens"
    beside_inputs: ClassVar[bool] = False
    of_words: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the model is an encoder-decoder that generates."""
        return "ForConditionalGeneration" in head_classes(pipeline) and bool(
            getattr(pipeline.config, "is_encoder_decoder", False)
        )
