"""The steps of one optimizer of a script's own training loop."""

from __future__ import annotations

import copy
import gc
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.host_memory import to_host
from trainsanity.maths.norms import norm_of_all
from trainsanity.sources.captured import Backward, CapturedStep
from trainsanity.sources.loop_passes import Passes

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 2
"""Optimizer steps that are recorded: the second one shows what the first left behind."""


class Track:
    """One optimizer, and its first steps.

    Attributes:
        optimizer: as torch calls its hooks with.
        parameters: the ids of what it holds.
        elements: how many elements that is.
        model: the module that its backward passes went through; None if no module was called.
        steps: those that are judged, in order.
        taken: how many it has taken.
        dropped: the first step had fewer backward passes than the second, and is not judged.
        stateless: the optimizer had no state as it took its first step.
        scheduler: the one that was stepped most between the first two; None without one.
        state, rates: the scheduler's and the optimizer's, as the first step began.
        scheduler_calls: steps of the scheduler between the first two.
        stray: a scheduler that was stepped between them instead of one of its own, for another
            optimizer of the same parameters; None without one.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.elements = elements_of(optimizer)
        self.model: Any = None
        self.steps: list[CapturedStep] = []
        self.taken = 0
        self.dropped = False
        self.stateless = False
        self.scheduler: Any = None
        self.state: dict[str, Any] | None = None
        self.rates: list[float] = []
        self.scheduler_calls: int | None = None
        self.stray: Any = None
        self._since = 0
        self._zeroed = True
        self._others: dict[Any, int] = {}
        self._schedulers: list[tuple[Any, int, dict[str, Any]]] = []

    @property
    def complete(self) -> bool:
        """Whether all steps that are wanted were seen."""
        return len(self.steps) >= STEPS

    def before_backward(self) -> None:
        """Look whether the gradients of the step before are gone as a backward pass begins."""
        if self.complete or self._zeroed:
            return
        self._zeroed = not any(
            bool(p.grad.any())
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        )

    def after(self, passes: Passes) -> None:
        """Note that a step has been taken: backward passes inside it, of a closure, are its own."""
        self._since, self._zeroed = len(passes.made), False

    def note(self, passes: Passes) -> None:
        """Note a step that is about to be taken."""
        if not self.taken:
            self.stateless = not self.optimizer.state
        self.taken += 1
        if self.complete:
            return
        window = self._window(passes)
        self._since = len(passes.made)
        batches, passes.batches = passes.batches, 0
        if not window:
            return
        if self.model is None:
            self.model = _model_of(window, self.parameters)
        if self.model is None:
            return
        step = CapturedStep(
            window, batches, left=not self._zeroed, clipped_late=passes.clipped_late
        )
        self._zeroed = False
        self._read(step, passes)
        if not self.steps:
            self._first(step, passes)
        elif len(window) > len(self.steps[0].passes) and not self.dropped:
            # Loops that step where ``number % accumulation == 0`` do so after the first batch.
            self.dropped = True
            self._first(step, passes)
        else:
            first = self.steps[0]
            if len(first.passes) > max(first.batches, len(window)):
                # What was sent backward before the loop began is no part of its first step.
                first.passes = first.passes[-len(window) :]
            step.weights = _weights(self.model)
            self.steps.append(step)
            self._find_scheduler(passes)

    def _first(self, step: CapturedStep, passes: Passes) -> None:
        step.weights, self.steps = _weights(self.model), [step]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self._others = dict(passes.scheduled.steps)
        self._schedulers = [
            (one, calls, copy.deepcopy(one.state_dict()))
            for one, calls in passes.scheduled.steps.items()
            if driven_by(one) is self.optimizer
        ]

    def _find_scheduler(self, passes: Passes) -> None:
        stepped = [
            (passes.scheduled.steps[one] - before, one, state)
            for one, before, state in self._schedulers
        ]
        if not any(calls for calls, *_ in stepped):
            self._find_stray(passes)
        if not stepped:
            return
        calls, self.scheduler, self.state = max(stepped, key=lambda found: found[0])
        if self.scheduler not in passes.scheduled.placed:
            self.scheduler_calls = calls

    def _find_stray(self, passes: Passes) -> None:
        """Find what is stepped for an optimizer of the same parameters."""
        for one, calls in passes.scheduled.steps.items():
            other = driven_by(one)
            held = {id(p) for group in other.param_groups for p in group["params"]}
            since = calls - self._others.get(one, calls)
            if since and other is not self.optimizer and held & self.parameters:
                self.stray = one

    def _window(self, passes: Passes) -> list[Backward]:
        """Return the backward passes since the step before that went through what is trained."""
        window = passes.made[self._since :]
        skipped = [k for k, one in enumerate(window) if one.dtype is None]
        window = window[skipped[-1] + 1 :] if skipped else window
        return [
            one
            for one in window
            if any(id(p) in self.parameters for module in one.modules for p in module.parameters())
        ]

    def _read(self, step: CapturedStep, passes: Passes) -> None:
        named = dict(self.model.named_parameters())
        held = {name: p for name, p in named.items() if p.grad is not None}
        at_clip, norm = passes.clip or ({}, None)
        step.clip_given = passes.clip_given
        if any(id(p) in at_clip for p in held.values()):
            step.clip = norm
        else:
            at_clip = {}
        missing = [p for p in held.values() if id(p) not in at_clip]
        copies = dict(zip(map(id, missing), to_host([p.grad for p in missing]), strict=True))
        step.gradients = {name: {**at_clip, **copies}[id(p)] for name, p in held.items()}
        step.norm_after = norm_of_all(p.grad for p in held.values())
        step.rates = [group["lr"] for group in self.optimizer.param_groups]


def driven_by(scheduler: Any) -> Any:
    """Return the optimizer that a scheduler sets rates in; accelerate may wrap it."""
    return getattr(scheduler.optimizer, "optimizer", scheduler.optimizer)


def elements_of(optimizer: Any) -> int:
    """Return how many elements an optimizer holds."""
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, to_host(list(named.values())), strict=True))


def _model_of(window: list[Backward], held: set[int]) -> Any:
    """Return the module that was trained: the one that was called, or the smallest around all."""
    called = {
        id(one): one
        for made in window
        for one in map(unwrapped_module, [*made.modules, *made.beside])
        if any(id(p) in held for p in one.parameters())
    }
    if len(called) < 2:
        return next(iter(called.values()), None)
    import torch

    around = []
    for found in gc.get_objects():
        if issubclass(type(found), torch.nn.Module):
            inside = {id(module) for module in found.modules()}
            if called.keys() <= inside:
                around.append((len(inside), found))
    if around:
        return min(around, key=lambda pair: pair[0])[1]
    return max(called.values(), key=lambda one: sum(p.numel() for p in one.parameters()))


def unwrapped_module(module: Any) -> Any:
    """Return the model inside ``torch.compile`` and ``DistributedDataParallel``."""
    import torch

    kinds = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while True:
        if "_orig_mod" in getattr(module, "_modules", {}):
            module = module._orig_mod
        elif isinstance(module, kinds):
            module = module.module
        else:
            return module
