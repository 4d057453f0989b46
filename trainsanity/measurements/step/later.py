"""What the user's callbacks make trainable later in the run, and whether the optimizer holds it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CALLS = 5_000
"""Steps whose beginnings are told: a callback looks at its parameters in each."""

FREEZING = {"requires_grad", "requires_grad_"}


@dataclass(frozen=True)
class Thawed:
    """Parameters that become trainable, and take no step.

    Attributes:
        names: of the parameters.
        callback: the class that thaws the first of them.
        when: in words.
    """

    names: list[str]
    callback: str
    when: str


def thawed_later(trainer: Any, users: Sequence[Any], state: Any, **parts: Any) -> Thawed | None:
    """Tell the callbacks that freeze or thaw of the beginnings to come; undo what they do.

    Args:
        trainer: in its last recorded step.
        users: the user's own callbacks.
        state: of the Trainer.
        parts: what an event is told of besides: the model, the optimizer and others.
    """
    freezing = [one for one in users if names_in(type(one)) & FREEZING]
    if not freezing:
        return None
    named = dict(trainer.model.named_parameters())
    before = {name: p.requires_grad for name, p in named.items()}
    told, control = copy.copy(state), copy.copy(trainer.control)
    inner: Any = getattr(parts.get("optimizer"), "optimizer", parts.get("optimizer"))
    try:
        for event, epoch, step, words in _beginnings(trainer, state):
            told.epoch, told.global_step = epoch, step
            for one in freezing:
                with contextlib.redirect_stdout(io.StringIO()):
                    getattr(one, event)(trainer.args, told, control, **parts)
                held = {id(p) for group in inner.param_groups for p in group["params"]}
                new = [
                    name
                    for name, p in named.items()
                    if p.requires_grad and not before[name] and id(p) not in held
                ]
                if new:
                    return Thawed(new, type(one).__name__, words)
    except Exception:  # what it looks for may come in the course of a run alone
        return None
    finally:
        for name, p in named.items():
            p.requires_grad_(before[name])
    return None


def _beginnings(trainer: Any, state: Any) -> list[tuple[str, float, int, str]]:
    """Return the beginnings of epochs and of steps to come: event, epoch, step, in words."""
    # A stream has as many epochs as there are numbers, and nobody knows where the second begins.
    epochs = math.ceil(state.num_train_epochs or 1)
    epochs = 1 if epochs > state.max_steps else max(1, epochs)
    per_epoch = max(1, math.ceil(state.max_steps / epochs))
    events = [("on_epoch_begin", float(k), k * per_epoch, f"as epoch {k + 1} begins")
              for k in range(1, min(epochs, CALLS))]  # fmt: skip
    steps = range(int(state.global_step), min(int(state.max_steps), CALLS))
    events += [("on_step_begin", k / per_epoch, k, f"as step {k + 1} begins") for k in steps]
    return sorted(events, key=lambda one: one[2])


def names_in(cls: type) -> set[str]:
    """Return the names that the methods of a class use."""
    found: set[str] = set()
    for _, method in inspect.getmembers(cls, inspect.isfunction):
        codes = [method.__code__]
        while codes:
            code = codes.pop()
            found.update(code.co_names)
            codes += [one for one in code.co_consts if inspect.iscode(one)]
    return found
