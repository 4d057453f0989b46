"""Language models that predict the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainsanity.objectives.base import CAUSAL_LM, head_classes
from trainsanity.objectives.entropy import CrossEntropy
from trainsanity.objectives.registry import objective

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


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
        """Return whether the model is a causal language model."""
        classes = head_classes(pipeline)
        return "ForCausalLM" in classes or "LMHeadModel" in classes

    def items(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return ``values`` (``[B, T, ...]``) at the positions that predict a counted label."""
        return super().items(values[:, :-1], labels[:, 1:])

    def targets(self, labels: Tensor) -> Tensor:
        """Return the counted labels (``[B, T]``) after the first position, ``[M]``."""
        return super().targets(labels[:, 1:])
