"""Completions that a policy generated, their rewards, and the advantages made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.fsdp import fsdp
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

MAKES = "_generate_and_score_completions"
MORE = 3
"""Further batches of prompts that are answered where the first one taught nothing."""


@dataclass
class Rollouts:
    """Completions generated for the first batch of prompts, over all processes.

    Attributes:
        size: completions of a group, as the Trainer counts.
        prompts: for each completion its prompt, as a key.
        advantages: of each completion; one that has a value for each token has their mean.
        ids, mask: of each completion, its counted tokens marked.
        rewards: of each completion, by reward function; NaN for None.
        tools: whether a completion may go on after an end, as a conversation with tools does.
        further: largest absolute advantage of each further batch; asked for only if the first has
            none.
    """

    size: int
    prompts: list[Any] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    mask: list[list[int]] = field(default_factory=list)
    rewards: dict[str, list[float]] = field(default_factory=dict)
    tools: bool = False
    further: list[float] = field(default_factory=list)

    @property
    def groups(self) -> dict[Any, list[int]]:
        """The completions of each prompt."""
        found: dict[Any, list[int]] = {}
        for k, prompt in enumerate(self.prompts):
            found.setdefault(prompt, []).append(k)
        return found

    @property
    def counted(self) -> int:
        """Tokens that the loss counts."""
        return sum(map(sum, self.mask))

    @property
    def largest(self) -> float:
        """The largest absolute advantage of a completion that is counted; NaN if one is."""
        return largest_advantage(self.advantages, self.mask)


def largest_advantage(advantages: list[float], mask: list[list[int]]) -> float:
    """Return the largest absolute advantage among completions with a counted token."""
    sizes = [abs(value) for value, counted in zip(advantages, mask, strict=True) if any(counted)]
    return math.nan if any(map(math.isnan, sizes)) else max(sizes, default=0.0)


def record_rollouts(trainer: Any, note: Callable[[dict[str, Any]], None]) -> None:
    """Note what a policy's Trainer generates, as it makes it: unshuffled, group by group."""
    make = getattr(trainer, MAKES, None)
    if make is None:
        return

    def recording(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        if isinstance(made, Mapping) and trainer.model.training:
            note(_kept(trainer, made))
        return made

    setattr(trainer, MAKES, recording)


def _kept(trainer: Any, made: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    wanted = "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"
    there = [name for name in wanted if torch.is_tensor(made.get(name))]
    kept = {name: made[name].detach().cpu().clone() for name in there}
    logs = getattr(trainer, "_logs", {}).get("rewards", {})
    size = len(kept.get("completion_ids", ())) * trainer.args.world_size
    rewards = {
        name: [math.nan if value is None else float(value) for value in list(values)[-size:]]
        for name, values in logs.items()
    }
    return {**kept, "tool_mask": made.get("tool_mask") is not None, "rewards": rewards}


@measurement(Cost.STEP)
def rollouts(pipeline: Pipeline, recording: Recording) -> Rollouts:
    """Gather the first completions; where they teach nothing, generate some more.

    Raises:
        Skip: no completions were generated.
    """
    trainer, made = pipeline.trainer, recording.rollout
    if not {"completion_ids", "completion_mask", "advantages"} <= set(made):
        raise Skip("no completions with advantages were generated")
    tools = bool(getattr(trainer, "tools", None) or getattr(trainer, "environment_factory", None))
    found = Rollouts(int(getattr(trainer, "num_generations", 1)), tools=made["tool_mask"] or tools)
    own = _listed(made)
    for theirs in all_gather(own):
        found.prompts += theirs[0]
        found.advantages += theirs[1]
        found.ids += theirs[2]
        found.mask += theirs[3]
    found.rewards = made["rewards"]
    if found.largest == 0 and not fsdp(pipeline) and not getattr(trainer, "use_vllm", False):
        found.further = _more(pipeline)
    return found


def _listed(made: Mapping[str, Any]) -> tuple[list[Any], list[float], list[Any], list[Any]]:
    advantages: Tensor = made["advantages"].float()
    if advantages.dim() > 1:
        advantages = advantages.flatten(1).mean(1)
    ids, mask = made["completion_ids"], made["completion_mask"]
    if "prompt_ids" in made:
        shown = made.get("prompt_mask", made["prompt_ids"] >= 0).bool()
        pairs = zip(made["prompt_ids"], shown, strict=True)
        prompts: list[Any] = [tuple(row[one].tolist()) for row, one in pairs]
    else:
        prompts = [(k,) for k in range(len(ids))]
    return prompts, advantages.tolist(), ids.tolist(), mask.int().tolist()


def _more(pipeline: Pipeline) -> list[float]:
    """Answer further prompts, which takes no training step."""
    trainer, found = pipeline.trainer, []
    repeats = int(getattr(trainer.args, "steps_per_generation", 1) or 1)
    repeats *= int(getattr(trainer, "num_iterations", 1))
    with preserved(pipeline), quiet(pipeline):
        trainer.model.train()
        loader = trainer.get_train_dataloader()
        # Each batch of prompts comes as often as it is trained on.
        for rows in itertools.islice(loader, repeats, repeats * (MORE + 1), repeats):
            made = getattr(trainer, MAKES)(rows)
            _, advantages, _, mask = _listed(
                {name: v.detach().cpu() if hasattr(v, "detach") else v for name, v in made.items()}
            )
            parts = all_gather((advantages, mask))
            found.append(max(largest_advantage(*part) for part in parts))
            if found[-1]:
                break
    return found
