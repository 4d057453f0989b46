"""Reward functions, asked again: in another order, and with columns under names that they read."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from trainsanity.measurements.batches.rewards import SCORES

PASSED = ("self", "prompts", "completions", "completion_ids", "trainer_state", "log_extra",
          "log_metric", "environments")  # fmt: skip
"""What TRL passes beside the columns."""

NAMES = 8
"""Names of one function that are tried.  Chosen: reward functions read two or three."""


DEPTH = 3
"""Functions of the user's own that a reward function may call through to the one with the words."""


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
        unseen: of such functions, special tokens of the tokenizer that stand in their code, and
            make them pay more as soon as completions hold them, which are decoded without.
    """

    asked: list[str] = field(default_factory=list)
    strayed: dict[str, int] = field(default_factory=dict)
    completions: int = 0
    unread: dict[str, tuple[str, str]] = field(default_factory=dict)
    unseen: dict[str, tuple[str, ...]] = field(default_factory=dict)


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
            elif unseen := rows.unseen(function):
                found.unseen[name] = unseen
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

    def rewards(
        self, function: Any, step: int, completions: list[Any] | None = None, **more: list[Any]
    ) -> list[float] | None:
        """Return the rewards, in the order of the completions; None where it cannot be asked."""
        given = self.completions if completions is None else completions
        try:
            made = function(
                prompts=self.prompts[::step],
                completions=copy.deepcopy(given[::step]),
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

    def unseen(self, function: Any) -> tuple[str, ...]:
        """Return special tokens that the function looks for, and that decoding leaves out.

        Args:
            function: gives every completion the same reward.
        """
        tokens = [token for token in special_tokens(self.trainer) if token]
        texts = [_text(one) for one in self.completions]
        if any(token in text for token in tokens for text in texts):
            return ()  # they are decoded with them
        code = "\n".join(texts_read(function)).replace("\\", "")
        named = sorted((token for token in tokens if token in code), key=code.index)
        if not named:
            return ()
        for between in ("", "\n"):
            for last in (True, False):  # <a>text</a>text, and without the text behind it
                changed = [
                    one if k % 2 == 0 else _with_text(one, _tagged(named, text, between, last))
                    for k, (one, text) in enumerate(zip(self.completions, texts, strict=True))
                ]
                made = self.rewards(function, 1, changed)
                # One that pays less for them is on its guard against tags that nobody wanted.
                if made is not None and max(made[1::2]) > made[0]:
                    return tuple(named)
        return ()


def _tagged(tokens: Sequence[str], text: str, between: str, last: bool) -> str:
    parts = [part for token in tokens for part in (token, text)]
    return between.join(parts if last else parts[:-1])


def special_tokens(trainer: Any) -> list[str]:
    """Return the tokens that decoding without special tokens leaves out."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    known = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [str(token) for token in known if getattr(token, "special", False)]


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    parts = [one.get("content") for one in completion if isinstance(one, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def _with_text(completion: Any, text: str) -> Any:
    """Return a completion, plain or of messages, whose text is another."""
    if isinstance(completion, str):
        return text
    return [
        *({**one, "content": ""} for one in completion[:-1]),
        {**completion[-1], "content": text},
    ]


def texts_read(function: Any) -> list[str]:
    """Return the words in a function's code, in patterns that it names, and in what it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__"):
        function = inspect.getattr_static(type(function), "__call__", None)
    seen: set[Any] = set()
    found: list[str] = []

    def read(value: Any, depth: int) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, re.Pattern):
            read(value.pattern, depth)
        elif isinstance(value, tuple | list | set | frozenset):
            for one in value:
                read(one, depth)
        elif isinstance(value, CodeType):
            for one in value.co_consts:
                read(one, depth)
        elif isinstance(value, FunctionType) and value not in seen and depth:
            seen.add(value)
            read(value.__code__, depth)
            for name in value.__code__.co_names:
                read(value.__globals__.get(name), depth - 1)
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # not assigned yet
                    read(cell.cell_contents, depth - 1)

    read(getattr(function, "__func__", function), DEPTH)
    return found


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
