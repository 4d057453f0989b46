"""How the gradient at a model's logits answers where another model's logits are changed.

A teacher or a reference tells each output of the trained model where to go.  The step is taken
again with that model's logits changed at one position, to see which outputs hear of it, and with
the logits of the row's own tokens raised, to see which way they go.  No formula is needed.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.fields import logits_of
from trainsanity.measurements.step.pull import given_ids
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from torch import Tensor

ADVANTAGE = "advantage"
"""In the name of what a rewarded answer is weighed by: without it the reference alone is left."""

PLACES = 3
"""Positions that are changed, one at a time."""

NOISE = 1e-4
"""Share of the largest change of a gradient below which one is rounding, in float32 and in bfloat16
sums; the outputs that hear of another position are held to it alone."""

SURE = 20.0
"""By how much a logit lies above all others where a model is sure, of a large vocabulary, too."""

RAISED = 0.5
"""How far logits are raised: far above rounding in bfloat16, and no other order of magnitude."""

HEARD = 1e-6
"""Share of the largest gradient from which a change is one: what is not changed is the same bit by
bit, but for sums whose order is free."""

Take = Callable[[Callable[[Mapping[str, Any]], dict[str, Any]]], None]
"""Takes the first micro-batch as a step again, with its inputs as a function makes them."""


@dataclass
class Guided:
    """Answers of the gradient at the trained model's logits.

    Attributes:
        name: of the other model's class; empty if none was asked.
        places: for each position that was changed how many places on the outputs stand that alone
            heard of it; None where others did, too.  Positions that nothing hears of are left out.
        nearer, farther: outputs that go up, and down, where the other model's logit of the row's
            next token is raised, advantages being 0; both 0 where there are none.
    """

    name: str = ""
    places: list[int | None] = field(default_factory=list)
    nearer: int = 0
    farther: int = 0

    @property
    def shift(self) -> int | None:
        """Return the one distance at which outputs hear of a position; None if there is none."""
        counts = Counter(self.places)
        return self.places[0] if len(counts) == 1 and len(self.places) > 1 else None


def ask_guided(model: Any, take: Take, inputs: Mapping[str, Any]) -> Guided:
    """Take a step again, with changes of what another model says beside the trained one.

    Args:
        model: that is trained.
        take: takes the step.
        inputs: of the first micro-batch.
    """
    import torch

    before = _Pass(model)
    with before.watched(lambda logits: logits):
        take(dict)
    found = Guided()
    if not before.comparable or before.gradient is None:
        return found
    found.name = before.name
    assert before.ids is not None
    ids, width = before.ids, before.ids.shape[1]
    for place in sorted({(k + 1) * width // (PLACES + 2) for k in range(PLACES)} - {0, width - 1}):
        after = _Pass(model)
        with after.watched(functools.partial(_turned, place)):
            take(dict)
        columns = before.moved(after)
        if columns:
            found.places.append(columns[0] - place if len(columns) == 1 else None)
    named = [name for name, value in inputs.items()
             if ADVANTAGE in name.lower() and torch.is_tensor(value)]  # fmt: skip
    if not named:
        return found

    def without(given: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v * 0 if n in named else v for n, v in given.items()}

    still, raised = _Pass(model), _Pass(model)
    with still.watched(lambda logits: logits):
        take(without)
    with raised.watched(lambda logits: _raised(logits, ids)):
        take(without)
    change = still.change(raised)
    if change is not None:
        own = change[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        heard = own.abs() > NOISE * own.abs().max()
        found.nearer, found.farther = int((heard & (own < 0)).sum()), int((heard & (own > 0)).sum())
    return found


class _Pass:
    """One step: ids and logits of both models, and the gradient at those of the trained one."""

    def __init__(self, model: Any) -> None:
        self.model = unwrapped(model)
        self.own = {id(part) for one in (model, self.model) for part in one.modules()}
        self.name = ""
        self.ids: Tensor | None = None
        self.others: list[Any] = []
        self.students: list[Any] = []
        self.gradient: Tensor | None = None

    @property
    def comparable(self) -> bool:
        """Return whether one other model was given the same tokens, once, as the trained one."""
        if len(self.others) != 1 or len(self.students) != 1:
            return False
        (shape, ids), (own_shape, own_ids) = self.others[0], self.students[0]
        if ids is None or own_ids is None or shape != own_shape or ids.shape != own_ids.shape:
            return False
        same = bool((ids == own_ids).all()) and tuple(own_shape[:2]) == tuple(own_ids.shape)
        self.ids = own_ids
        return same

    @contextlib.contextmanager
    def watched(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Watch the models that run in the block; the other's logits are changed."""
        from torch.nn.modules.module import (
            register_module_forward_hook,
            register_module_forward_pre_hook,
        )

        open_calls: list[int] = []
        handles: list[Any] = []

        def before(module: Any, _args: Any) -> None:
            open_calls.append(id(module))
            if len(open_calls) == 1 and id(module) not in self.own:
                # Global hooks are told nothing of arguments by name; one of its own is.
                own = module.register_forward_hook(of_other, with_kwargs=True)
                handles.append(own)

        def after(module: Any, _args: Any, _output: Any) -> None:
            while open_calls and open_calls.pop() != id(module):
                pass

        def of_other(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            logits = _per_token(output)
            if logits is None or logits.requires_grad:
                return None
            self.name = type(module).__name__
            self.others.append(
                (logits.shape, given_ids([*args, *kwargs.values()], logits.shape[:2]))
            )
            return _replaced(output, logits, change(logits))

        def of_student(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            logits = _per_token(output)
            if logits is not None and logits.requires_grad:
                self.students.append(
                    (logits.shape, given_ids([*args, *kwargs.values()], logits.shape[:2]))
                )
                logits.register_hook(self._arrived)

        handles += [
            register_module_forward_pre_hook(before),
            register_module_forward_hook(after),
            self.model.register_forward_hook(of_student, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _arrived(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().float().clone()

    def change(self, after: _Pass) -> Tensor | None:
        """Return the other pass's gradient less this one's; None where one is missing."""
        if self.gradient is None or after.gradient is None:
            return None
        return after.gradient - self.gradient

    def moved(self, after: _Pass) -> list[int]:
        """Return the positions whose outputs have another gradient there."""
        change = self.change(after)
        if change is None or self.gradient is None:
            return []
        each = change.abs().amax((0, 2))
        if not float(each.max()) > HEARD * float(self.gradient.abs().max()):
            return []
        found: list[int] = (each > NOISE * each.max()).nonzero().flatten().tolist()
        return found


def _per_token(output: Any) -> Any:
    import torch

    logits = logits_of(output)
    fits = torch.is_tensor(logits) and logits.dim() == 3 and logits.is_floating_point()
    return logits if fits else None


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return the output with other logits in it."""
    if new is old:
        return None
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = {name: new if value is old else value for name, value in output.items()}
        made: Any = type(output)
        return made(**changed) if hasattr(output, "to_tuple") else made(changed)
    if isinstance(output, tuple):
        return tuple(new if value is old else value for value in output)
    return None


def _turned(place: int, logits: Tensor) -> Tensor:
    """Return the logits, sure of what they deemed least likely at one position."""
    changed, here = logits.clone(), logits[:, place]
    changed[:, place] = here.scatter(
        1, here.argmin(-1, keepdim=True), here.amax(-1, keepdim=True) + SURE
    )
    return changed


def _raised(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the logits, that of each next token raised."""
    import torch

    size = logits.shape[2]
    once = torch.nn.functional.one_hot(ids[:, 1:].clamp(0, size - 1), size).to(logits)
    changed = logits.clone()
    changed[:, :-1] += RAISED * once
    return changed
