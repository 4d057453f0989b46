"""How often a look ran the model, its backward pass and an optimizer: counted from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Passes:
    """What was taken during a look, in this process.

    Attributes:
        forwards: calls of the pipeline's own model; what gradient checkpointing computes again
            inside a backward pass is part of that.
        backwards: calls of ``backward`` or ``torch.autograd.grad``, each from its beginning to its
            end.
        optimizer_steps: ``step()`` of any torch optimizer.
        peak_bytes: device memory at its highest; None on the CPU.
    """

    forwards: int = 0
    backwards: int = 0
    optimizer_steps: int = 0
    peak_bytes: int | None = None

    def __bool__(self) -> bool:
        return bool(self.forwards or self.backwards or self.optimizer_steps)


@contextmanager
def counted(model: Any) -> Iterator[Passes]:
    """Count what happens in the block."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen, inside = Passes(), 0

    def forward(*_: Any) -> None:
        seen.forwards += 1

    def step(*_: Any) -> None:
        seen.optimizer_steps += 1

    def outermost(differentiate: Callable[..., Any]) -> Callable[..., Any]:
        # Gradient checkpointing calls it again from within, in a thread of the engine.
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            seen.backwards += not inside
            inside += 1
            try:
                return differentiate(*args, **kwargs)
            finally:
                inside -= 1

        return counting

    handles = [model.register_forward_pre_hook(forward), register_optimizer_step_pre_hook(step)]
    backward, grad = torch.autograd.backward, torch.autograd.grad
    torch.autograd.backward, torch.autograd.grad = outermost(backward), outermost(grad)
    cuda = torch.cuda.is_initialized()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield seen
    finally:
        if cuda:
            seen.peak_bytes = torch.cuda.max_memory_allocated()
        torch.autograd.backward, torch.autograd.grad = backward, grad
        for handle in handles:
            handle.remove()
