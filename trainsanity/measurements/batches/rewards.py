"""Reward functions that end the training in its first step, told in one sentence."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainsanity.errors import UsageError, first_line
from trainsanity.types import Blocked, Skip

SCORES = "_calculate_rewards"
"""What TRL's policy Trainers call their reward functions in."""

GIVE = "return a list with one number for each completion, or None where it does not apply"


@contextlib.contextmanager
def usable_rewards(trainer: Any) -> Iterator[None]:
    """Name the reward function that the block's completions could not be scored by.

    Raises:
        UsageError: a reward function raised, or returned no list of numbers.
    """
    score = getattr(trainer, SCORES, None)
    if score is None:
        yield
        return

    def scoring(*given: Any, **named: Any) -> Any:
        replaced = trainer.reward_funcs
        names = getattr(trainer, "reward_func_names", [])
        noted: list[str] = []
        trainer.reward_funcs = [
            _noting(function, name, noted) for function, name in zip(replaced, names, strict=False)
        ] + list(replaced[len(names) :])
        try:
            return score(*given, **named)
        except (UsageError, Skip, Blocked):
            raise
        except Exception as error:
            if not noted:
                raise
            raise UsageError(noted[-1]) from error
        finally:
            trainer.reward_funcs = replaced

    setattr(trainer, SCORES, scoring)
    try:
        yield
    finally:
        if trainer.__dict__.get(SCORES) is scoring:
            delattr(trainer, SCORES)


def _noting(function: Any, name: str, noted: list[str]) -> Any:
    """Return the function, noting what its caller cannot use; models and coroutines as they are."""
    awaited = (function, getattr(function, "__call__", None))  # noqa: B004 - it may be async
    if hasattr(function, "parameters") or any(map(inspect.iscoroutinefunction, awaited)):
        return function

    def asked(*given: Any, **named: Any) -> Any:
        try:
            made = function(*given, **named)
        except Exception as error:
            noted.append(
                f"the reward function {name!r} raised {type(error).__name__}: {first_line(error)}"
            )
            raise
        wrong = unusable(made, len(named.get("completions", ())))
        if wrong:
            noted.append(f"the reward function {name!r} returned {wrong}: {GIVE}")
        return made

    asked.__name__ = name
    return asked


def unusable(made: Any, count: int) -> str:
    """Return what is wrong with the rewards of so many completions; empty if nothing is."""
    if made is None:
        return "None in the place of its rewards"
    if isinstance(made, str | Mapping) or not (
        isinstance(made, Sequence) or hasattr(made, "__array__")
    ):
        return f"a {type(made).__name__} in the place of a list"
    if len(made) != count:
        return f"{len(made)} rewards for {count} completions"
    for one in made:
        if one is not None and (isinstance(one, str) or not hasattr(one, "__float__")):
            return f"a {type(one).__name__} ({one!r}) as a reward"[:80]
    return ""
