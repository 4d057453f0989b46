"""Count how often a measurement runs the model, a backward pass and an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainsanity.isolation.time_limit import deferred


@dataclass
class Passes:
    """The passes of one measurement in this process.

    Attributes:
        forwards: calls of the pipeline's own model; modules that gradient checkpointing runs again
            belong to the backward pass.
        backwards: outermost calls of ``backward`` or ``torch.autograd.grad``.
        optimizer_steps: calls of ``step()`` on any torch optimizer.
        peak_bytes: the highest device memory in use; None on the CPU.
    """

    forwards: int = 0
    backwards: int = 0
    optimizer_steps: int = 0
    peak_bytes: int | None = None

    def __bool__(self) -> bool:
        return bool(self.forwards or self.backwards or self.optimizer_steps)

    def __isub__(self, other: Passes) -> Passes:
        self.forwards -= other.forwards
        self.backwards -= other.backwards
        self.optimizer_steps -= other.optimizer_steps
        return self


KEY = -1
"""Of the hook among the model's, whose keys torch counts from 0.  Key and function are the same
each time, so that who walks through the model finds the same in each measurement."""

_counting: list[tuple[Any, Passes]] = []


def _forward(model: Any, *_: Any) -> None:
    for counted_model, seen in _counting:
        if counted_model is model:
            seen.forwards += 1


@contextmanager
def counted(model: Any) -> Iterator[Passes]:
    """Count the passes in the block."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen, inside = Passes(), 0

    def step(*_: Any) -> None:
        seen.optimizer_steps += 1

    def outermost(differentiate: Callable[..., Any]) -> Callable[..., Any]:
        # Gradient checkpointing calls backward inside backward, in a thread of the engine.
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            seen.backwards += not inside
            inside += 1
            try:
                return differentiate(*args, **kwargs)
            finally:
                inside -= 1

        return counting

    handles: list[Any] = []
    backward, grad = torch.autograd.backward, torch.autograd.grad
    cuda = torch.cuda.is_initialized()
    try:
        with deferred():
            _counting.append((model, seen))
            model._forward_pre_hooks[KEY] = _forward
            handles.append(register_optimizer_step_pre_hook(step))
            torch.autograd.backward, torch.autograd.grad = outermost(backward), outermost(grad)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        yield seen
    finally:
        with deferred():
            if cuda:
                seen.peak_bytes = torch.cuda.max_memory_allocated()
            torch.autograd.backward, torch.autograd.grad = backward, grad
            for handle in handles:
                handle.remove()
            # By identity: passes that count the same are equal.
            _counting[:] = [one for one in _counting if one[1] is not seen]
            if not any(one is model for one, _ in _counting):
                model._forward_pre_hooks.pop(KEY, None)
