"""Language models that predict the next token."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import CAUSAL_LM, head_classes
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


UNSHIFTED_LM = "unshifted_causal_lm"


def _predicts_the_next(pipeline: Pipeline) -> bool:
    classes = head_classes(pipeline)
    return "ForCausalLM" in classes or "LMHeadModel" in classes


def _is_half_of_two(pipeline: Pipeline) -> bool:
    """Return whether it is the decoder of an encoder-decoder, trained by itself.

    transformers keeps it in a wrapper of its own (BartDecoderWrapper, and those of its relatives),
    whose loss compares each position with the label that lies there, as the encoder-decoder does.
    """
    children = unwrapped(pipeline.model).children()
    return any(type(child).__name__.endswith("DecoderWrapper") for child in children)


def _leaves_the_shift(pipeline: Pipeline) -> bool:
    """Return whether labels lie where they are predicted: in such a decoder, or told by a mapping.

    A model that is told which places to predict, as XLNet is by ``target_mapping``, shifts nothing.
    """
    forward = inspect.signature(unwrapped(pipeline.model).forward)
    return _is_half_of_two(pipeline) or "target_mapping" in forward.parameters


@objective
@dataclass(frozen=True)
class UnshiftedLM(CrossEntropy):
    """The next token, which the labels hold at the position that predicts it."""

    name: ClassVar[str] = UNSHIFTED_LM
    item_word: ClassVar[str] = "tokens"
    of_words: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the model is a causal language model that leaves the shift to labels."""
        return _predicts_the_next(pipeline) and _leaves_the_shift(pipeline)


@objective
@dataclass(frozen=True)
class CausalLM(CrossEntropy):
    """The next token, after every position whose next label is not ignored."""

    name: ClassVar[str] = CAUSAL_LM
    item_word: ClassVar[str] = "tokens"
    shifts: ClassVar[bool] = True
    of_words: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether the model is a causal language model that shifts labels itself."""
        return _predicts_the_next(pipeline) and not _leaves_the_shift(pipeline)

    def items(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return ``values`` (``[B, T, ...]``) at the positions that predict a counted label."""
        return super().items(values[:, :-1], labels[:, 1:])

    def targets(self, labels: Tensor) -> Tensor:
        """Return the counted labels (``[B, T]``) after the first position, ``[M]``."""
        return super().targets(labels[:, 1:])
