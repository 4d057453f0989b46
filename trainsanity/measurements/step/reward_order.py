"""Reward functions, asked again: in another order, and with columns under names that they read."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCORES = "_calculate_rewards"
"""What TRL's policy Trainers call their reward functions in."""

PASSED = ("self", "prompts", "completions", "completion_ids", "trainer_state", "log_extra",
          "log_metric", "environments")  # fmt: skip
"""What TRL passes beside the columns."""

NAMES = 8
"""Names of one function that are tried.  Chosen: reward functions read two or three."""


@dataclass
class RewardOrder:
    """Rewards of one batch of completions, in two orders.

    Attributes:
        asked: names of the functions that were asked again.
        strayed: of those that give the same rewards for the same order, how many completions got
            another one when the order was turned; only where some did.
        completions: how many there were.
        unread: of functions that gave all completions one reward, the name that they read and no
            row has, and the column that makes their rewards differ when it comes under that name.
    """

    asked: list[str] = field(default_factory=list)
    strayed: dict[str, int] = field(default_factory=dict)
    completions: int = 0
    unread: dict[str, tuple[str, str]] = field(default_factory=dict)


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
    rows = _Scored(trainer, *(list(one) for one in given[:4]))
    found = RewardOrder(completions=len(rows.prompts))
    readers = [names_read(function) for function in trainer.reward_funcs]
    for function, name in zip(trainer.reward_funcs, trainer.reward_func_names, strict=True):
        if hasattr(function, "parameters") or inspect.iscoroutinefunction(function):
            continue
        turned, again = rows.rewards(function, -1), rows.rewards(function, 1)
        if turned is None or again is None:
            continue
        found.asked.append(name)
        strayed = sum(not _same(a, b) for a, b in zip(turned, again, strict=True))
        # One that draws random numbers gives others in the same order, too.
        if strayed and again == rows.rewards(function, 1):
            found.strayed[name] = strayed
        if len(again) > 1 and not _differ(again):
            others = set().union(*readers)
            if unread := rows.unread(function, others):
                found.unread[name] = unread
    return found


@dataclass
class _Scored:
    """The completions that were scored, each with its prompt and its row."""

    trainer: Any
    inputs: list[Mapping[str, Any]]
    prompts: list[Any]
    completions: list[Any]
    ids: list[Any]

    def columns(self, step: int = 1) -> dict[str, list[Any]]:
        rows = self.inputs[::step]
        names = [key for key in rows[0] if key not in ("prompt", "completion", "completion_ids")]
        return {key: [row[key] for row in rows] for key in names}

    def rewards(self, function: Any, step: int, **more: list[Any]) -> list[float] | None:
        """Return the rewards, in the order of the completions; None where it cannot be asked."""
        try:
            made = function(
                prompts=self.prompts[::step],
                completions=self.completions[::step],
                completion_ids=self.ids[::step],
                **self.columns(step),
                trainer_state=self.trainer.state,
                log_extra=lambda *_, **__: None,
                log_metric=lambda *_, **__: None,
                **more,
            )
            rewards = [math.nan if one is None else float(one) for one in made][::step]
        except Exception:  # what it needs beside these is not known here
            return None
        return rewards if len(rewards) == len(self.prompts) else None

    def unread(self, function: Any, read: Collection[str]) -> tuple[str, str] | None:
        """Return a name that the function reads in vain, and the column that was meant by it.

        Args:
            function: gives every completion the same reward.
            read: names that any of the functions reads; a column of such a name is not tried.
        """
        columns = self.columns()
        missing = [name for name in names_read(function) if name not in {*columns, *PASSED}]
        for name in missing[:NAMES]:
            for column, values in columns.items():
                if column in read:
                    continue
                made = self.rewards(function, 1, **{name: values})
                if made is not None and _differ(made):
                    return name, column
        return None


def names_read(function: Any) -> list[str]:
    """Return what a function may read by name: its parameters, and words that stand in its code."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        call = inspect.getattr_static(type(function), "__call__", None)
        code = getattr(call, "__code__", None)
    if code is None:
        return []
    words = [one for one in code.co_consts if isinstance(one, str) and one.isidentifier()]
    own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [*dict.fromkeys([*own, *words])]


def _differ(rewards: Sequence[float]) -> bool:
    return any(not _same(rewards[0], one) for one in rewards)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
