"""Reward functions, asked again for the same completions in another order."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

SCORES = "_calculate_rewards"
"""What TRL's policy Trainers call their reward functions in."""


@dataclass
class RewardOrder:
    """Rewards of one batch of completions, in two orders.

    Attributes:
        asked: names of the functions that were asked again.
        strayed: of those that give the same rewards for the same order, how many completions got
            another one when the order was turned; only where some did.
        completions: how many there were.
    """

    asked: list[str] = field(default_factory=list)
    strayed: dict[str, int] = field(default_factory=dict)
    completions: int = 0


def watch_rewards(trainer: Any, note: Callable[[RewardOrder], None]) -> None:
    """Ask each reward function once more, in reverse, after its first batch in training."""
    score = getattr(trainer, SCORES, None)
    if score is None or getattr(trainer, "environments", None) is not None:
        return
    noted: list[None] = []

    def scoring(*given: Any, **named: Any) -> Any:
        rewards = score(*given, **named)
        if not noted and trainer.model.training:
            noted.append(None)
            bound = inspect.signature(score).bind(*given, **named).arguments
            note(_in_reverse(trainer, list(bound.values())))
        return rewards

    setattr(trainer, SCORES, scoring)


def _in_reverse(trainer: Any, given: Sequence[Any]) -> RewardOrder:
    """Return how rewards go along with their completions.

    Args:
        trainer: whose ``reward_funcs`` are asked; models and coroutines are left out, which see one
            completion at a time.
        given: rows, prompts, completions and token ids, each a list of one length.
    """
    inputs, prompts, completions, ids = (list(one) for one in given[:4])
    found = RewardOrder(completions=len(prompts))
    for function, name in zip(trainer.reward_funcs, trainer.reward_func_names, strict=True):
        if isinstance(function, type(trainer.model)) or hasattr(function, "parameters"):
            continue
        if inspect.iscoroutinefunction(function):
            continue

        def ask(function: Any, step: int) -> list[float] | None:
            rows = inputs[::step]
            columns = {
                key: [row[key] for row in rows]
                for key in rows[0]
                if key not in ("prompt", "completion", "completion_ids")
            }
            try:
                made = function(
                    prompts=prompts[::step],
                    completions=completions[::step],
                    completion_ids=ids[::step],
                    **columns,
                    trainer_state=trainer.state,
                    log_extra=lambda *_, **__: None,
                    log_metric=lambda *_, **__: None,
                )
                rewards = [math.nan if one is None else float(one) for one in made][::step]
            except Exception:  # what it needs beside these is not known here
                return None
            return rewards if len(rewards) == len(prompts) else None

        turned, again = ask(function, -1), ask(function, 1)
        if turned is None or again is None:
            continue
        found.asked.append(name)
        strayed = sum(not _same(a, b) for a, b in zip(turned, again, strict=True))
        # One that draws random numbers gives others in the same order, too.
        if strayed and again == ask(function, 1):
            found.strayed[name] = strayed
    return found


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
