"""Reward models: one number for an answer, higher for the better one of a pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.outputs import Call, Mistake, OfOutputs, Terms, only
from trainsanity.objectives.preference import of_classes
from trainsanity.objectives.registry import objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

REWARD = "reward"


@objective
@dataclass(frozen=True)
class Reward(OfOutputs):
    """Bradley and Terry: the negative log-probability that the chosen answer wins.

    ``-logsigmoid(chosen - rejected - margin)``, and ``center_rewards_coefficient`` times the square
    of each pair's sum beside it.
    """

    name: ClassVar[str] = REWARD
    item_word: ClassVar[str] = "pairs"
    by_trainer: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("logits",)

    @classmethod
    def matches(cls, pipeline: Pipeline) -> bool:
        """Return whether TRL's Trainer compares rewards."""
        return of_classes(pipeline.trainer, ("RewardTrainer",))

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return how strongly rewards are drawn to 0."""
        return {"centre": float(getattr(trainer.args, "center_rewards_coefficient", None) or 0.0)}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the pairs."""
        chosen, rejected, margin = _pairs(calls, inputs)
        return Terms.mean(_losses(chosen, rejected, margin, settings["centre"]))

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield wrong formulas of a pair's rewards."""
        import torch

        chosen, rejected, margin = _pairs(calls, inputs)
        centre = settings["centre"]
        yield (
            "the margin is flipped: the rejected answer is to have the higher reward",
            "-logsigmoid(chosen - rejected)",
            lambda: _losses(rejected, chosen, margin, centre).mean(),
        )
        yield (
            "the logarithm is left out: the loss is the negative sigmoid of the margin",
            "-logsigmoid(chosen - rejected)",
            lambda: -torch.sigmoid(chosen - rejected - margin).mean(),
        )
        yield (
            "rows are paired two by two, where the batch has all chosen answers first",
            "chosen, rejected = rewards.chunk(2)",
            lambda: _two_by_two(torch.cat([chosen, rejected]), margin, centre).mean(),
        )
        yield (
            "rewards are broadcast: every chosen answer is compared with every rejected one",
            "rewards.squeeze(-1) before the difference",
            lambda: _losses(chosen[:, None], rejected[None], margin, centre).mean(),
        )
        yield (
            "the loss is summed over pairs and not averaged",
            "take the mean over pairs",
            lambda: _losses(chosen, rejected, margin, centre).sum(),
        )
        if bool((margin != 0).any()):
            yield (
                "the rows' margins are left out",
                "-logsigmoid(chosen - rejected - margin)",
                lambda: _losses(chosen, rejected, 0 * margin, centre).mean(),
            )
            yield (
                "the rows' margins are added and not subtracted",
                "-logsigmoid(chosen - rejected - margin)",
                lambda: _losses(chosen, rejected, -margin, centre).mean(),
            )
        if centre:
            yield (
                "center_rewards_coefficient is set and its part is left out",
                "add it to the loss, or leave it unset",
                lambda: _losses(chosen, rejected, margin, 0.0).mean(),
            )


def _pairs(calls: Sequence[Call], inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rewards of chosen and of rejected answers, and by how much they should differ."""
    import torch

    rewards = only(calls).outputs["logits"]
    rewards = rewards.squeeze(-1) if rewards.dim() == 2 else rewards
    if rewards.dim() != 1 or len(rewards) % 2:
        raise Skip("the model does not give one number to each answer of as many pairs")
    chosen, rejected = rewards.chunk(2)
    margin = inputs.get("margin")
    if margin is None:
        return chosen, rejected, torch.zeros_like(chosen)
    if not torch.is_tensor(margin) or margin.numel() != len(chosen):
        raise Skip("the batch has margins of another number than its pairs")
    return chosen, rejected, margin.reshape(-1).to(chosen)


def _losses(chosen: Tensor, rejected: Tensor, margin: Tensor, centre: float) -> Tensor:
    from torch.nn.functional import logsigmoid

    losses = -logsigmoid(chosen - rejected - margin)
    return losses + centre * (chosen + rejected).square() if centre else losses


def _two_by_two(rewards: Tensor, margin: Tensor, centre: float) -> Tensor:
    return _losses(rewards[::2], rewards[1::2], margin, centre)
