"""Repairs of the training step: optimizer, schedule, the scale of the loss."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.repairs import CannotApply
from trainsanity.repairs.settings import changed

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BUILDING = ("create_optimizer", "create_scheduler", "create_optimizer_and_scheduler")
"""The methods by which a Trainer builds both."""


@contextlib.contextmanager
def trainers_own_optimizer(pipeline: Pipeline) -> Iterator[None]:
    """Let the Trainer build optimizer and schedule, by the library's own methods."""
    trainer = pipeline.trainer
    if trainer is None:
        raise CannotApply("the loop's optimizer is the loop's own")
    from transformers import Trainer

    own = {name: types.MethodType(getattr(Trainer, name), trainer) for name in BUILDING}
    with changed(trainer, optimizer=None, lr_scheduler=None, **own):
        yield


@contextlib.contextmanager
def norms_not_decayed(pipeline: Pipeline) -> Iterator[None]:
    """Build the optimizer anew by the Trainer, which spares norms and biases."""
    trainer = pipeline.trainer
    if trainer is None:
        raise CannotApply("the loop's optimizer is the loop's own")
    from transformers import Trainer

    grouping = types.MethodType(Trainer.get_decay_parameter_names, trainer)
    with trainers_own_optimizer(pipeline), changed(trainer, get_decay_parameter_names=grouping):
        yield


@contextlib.contextmanager
def loss_scaled(pipeline: Pipeline, factor: float) -> Iterator[None]:
    """Multiply each micro-batch's loss: that of compute_loss, or what a loop goes back from."""
    if pipeline.trainer is None:
        with changed(pipeline, train_step=_scaled_backward(pipeline.train_step, factor)):
            yield
        return
    trainer = pipeline.trainer
    compute_loss = trainer.compute_loss

    # What looks at its module still finds the one that it had.
    @functools.wraps(compute_loss)
    def scaled(*args: Any, **kwargs: Any) -> Any:
        said = compute_loss(*args, **kwargs)
        # Only evaluation asks for the outputs, and what it averages is no step's loss.
        return said if isinstance(said, tuple) else said * factor

    with changed(trainer, compute_loss=scaled):
        yield


def _scaled_backward(train_step: Any, factor: float) -> Any:
    import torch

    def step(batches: Any) -> Any:
        backward: Any = torch.Tensor.backward

        def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
            return backward(self * factor, *args, **kwargs)

        torch.Tensor.backward = scaled  # type: ignore[method-assign]
        try:
            said = train_step(batches)
        finally:
            torch.Tensor.backward = backward  # type: ignore[method-assign]
        return said * factor if said is not None else said

    return step
