"""Preferences and rewarded policies: language models without labels of their own.

None has a reference loss here.  They are told apart from next-token prediction, which their model's
class would suggest, and the laws judge them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import Objective, head_classes
from trainsanity.objectives.registry import objective

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PREFERENCE = "preference"
POLICY = "policy"

PREFERENCE_TRAINERS = (
    "DPOTrainer",
    "KTOTrainer",
    "ORPOTrainer",
    "CPOTrainer",
    "BCOTrainer",
    "TPOTrainer",
)
UNPAIRED_TRAINERS = ("KTOTrainer", "BCOTrainer")
"""Those whose rows have one answer each, and the label says whether it was liked."""

POLICY_TRAINERS = (
    "GRPOTrainer",
    "RLOOTrainer",
    "PPOTrainer",
    "OnlineDPOTrainer",
    "XPOTrainer",
    "NashMDTrainer",
)


def of_classes(trainer: Any, names: tuple[str, ...]) -> bool:
    """Return whether a Trainer is one of TRL's of these names, or a subclass of it."""
    return any(
        cls.__name__ in names and cls.__module__.startswith("trl.") for cls in type(trainer).__mro__
    )


def has_pairs(columns: Any) -> bool:
    """Return whether rows hold a chosen and a rejected side."""
    names = [str(name).lower() for name in columns or ()]
    return any("chosen" in name for name in names) and any("rejected" in name for name in names)


@objective
@dataclass(frozen=True)
class Preference(Objective):
    """A better and a worse answer to each prompt, or answers that were liked or not."""

    name: ClassVar[str] = PREFERENCE
    item_word: ClassVar[str] = "answers"
    by_trainer: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether TRL's Trainer compares answers, or a language model is given pairs."""
        if of_classes(pipeline.trainer, PREFERENCE_TRAINERS):
            return True
        classes = head_classes(pipeline)
        return ("ForCausalLM" in classes or "LMHeadModel" in classes) and has_pairs(
            getattr(pipeline.train_dataset, "column_names", None)
        )


@objective
@dataclass(frozen=True)
class Policy(Objective):
    """Rewards of completions that the model generates."""

    name: ClassVar[str] = POLICY
    item_word: ClassVar[str] = "completions"
    by_trainer: ClassVar[bool] = True

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether TRL's Trainer rewards completions."""
        return of_classes(pipeline.trainer, POLICY_TRAINERS)
