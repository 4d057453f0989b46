"""Gradients of a recorded step: what each backward pass adds, and what has been accumulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import whole
from trainsanity.maths.norms import norm_of
from trainsanity.measurements.model.head import weight_parameter
from trainsanity.measurements.step.sampling import sample, total_norm
from trainsanity.measurements.step.steps import Recording

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def backward_recorded(seen: Recording, model: Any, accelerator: Any) -> Iterator[None]:
    """Norms of what each backward pass adds; leaf hooks see it before it is accumulated."""
    import torch

    squares: list[Tensor] = []
    inside = [False]

    def add(gradient: Tensor) -> None:
        if inside[0]:
            squares.append(norm_of(gradient.detach()).float() ** 2)

    def recording(loss: Tensor, **kwargs: Any) -> None:
        if seen.asking:
            backward(loss, **kwargs)
            return
        micro = seen.steps[-1].micro_steps[-1]
        first = math.isnan(micro.backward_loss)
        micro.backward_loss = float(loss.detach())
        inside[0] = True
        try:
            backward(loss, **kwargs)
        finally:
            inside[0] = False
        if squares:
            # Of several passes, as of an attack, the gradients add up to no more than their norms.
            before = 0.0 if first else micro.gradient_norm
            micro.gradient_norm = before + float(torch.stack(squares).sum().sqrt())
        squares.clear()

    backward: Callable[..., None] = accelerator.backward
    accelerator.backward = recording
    handles = [p.register_hook(add) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


MIXED = "_mixed_mesh_grad_norm"
"""What transformers' Trainer calls in place of accelerate under tensor parallelism."""


def record_clipping(trainer: Any, seen: Recording) -> None:
    """Read the gradients whenever the Trainer is about to clip them."""
    # Some gradients lie on a mesh of processes and some do not: transformers clips them itself.
    for owner, name in ((trainer.accelerator, "clip_grad_norm_"), (trainer, MIXED)):
        if hasattr(owner, name):
            setattr(owner, name, _reading(getattr(owner, name), trainer, seen))


def _reading(clip: Any, trainer: Any, seen: Recording) -> Any:
    def recording(*args: Any, **kwargs: Any) -> Any:
        take_gradients(seen, trainer.model)
        return clip(*args, **kwargs)

    return recording


def take_gradients(seen: Recording, model: Any) -> None:
    """Read what has been accumulated for the step in progress."""
    weight = weight_parameter(model.get_submodule(seen.head_name)) if seen.head_name else None
    if weight is not None and weight.grad is not None:
        seen.steps[-1].head_gradient = whole(weight.grad.detach()).cpu().clone()
    seen.steps[-1].norm_before_clip = total_norm(model)
    if len(seen.steps) == 1:
        seen.gradients = {
            name: sample(p.grad) for name, p in model.named_parameters() if p.grad is not None
        }
