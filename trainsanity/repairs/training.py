"""Repairs of the training step: optimizer, schedule, the scale of the loss."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.repairs import BUILDING, CannotApply
from trainsanity.repairs.settings import changed

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


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
def loss_scaled(
    pipeline: Pipeline, factor: float, logged: bool = True, batches_to_the: int = 0
) -> Iterator[None]:
    """Multiply each micro-batch's loss: that of compute_loss, or what a loop goes back from.

    Args:
        pipeline: that is changed.
        factor: to multiply by.
        logged: whether the loss that is logged is multiplied as well.
        batches_to_the: for a loop, if not 0: the power of the number of micro-batches to take.
    """
    trainer = pipeline.trainer
    if trainer is None:
        step = _scaled_backward(pipeline.train_step, factor, logged, batches_to_the)
        with changed(pipeline, train_step=step):
            yield
        return
    if not logged:
        backward = trainer.accelerator.backward

        def scaled_backward(loss: Any, **kwargs: Any) -> Any:
            return backward(loss * factor, **kwargs)

        with changed(trainer.accelerator, backward=scaled_backward):
            yield
        return
    compute_loss = trainer.compute_loss

    # What looks at its module still finds the one that it had.
    @functools.wraps(compute_loss)
    def scaled(*args: Any, **kwargs: Any) -> Any:
        said = compute_loss(*args, **kwargs)
        # Only evaluation asks for the outputs, and what it averages is no step's loss.
        return said if isinstance(said, tuple) else said * factor

    with changed(trainer, compute_loss=scaled):
        yield


def _scaled_backward(train_step: Any, factor: float, logged: bool, batches_to_the: int) -> Any:
    import torch

    def step(batches: Any) -> Any:
        backward: Any = torch.Tensor.backward
        by = float(len(batches)) ** batches_to_the if batches_to_the else factor

        inside: list[None] = []

        def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
            if inside:  # while torch functions are watched, torch calls it a second time
                return backward(self, *args, **kwargs)
            inside.append(None)
            try:
                return backward(self * by, *args, **kwargs)
            finally:
                inside.clear()

        torch.Tensor.backward = scaled  # type: ignore[method-assign]
        try:
            said = train_step(batches)
        finally:
            torch.Tensor.backward = backward  # type: ignore[method-assign]
        return said * by if said is not None and logged else said

    return step


@contextlib.contextmanager
def own_clip_left_out(pipeline: Pipeline) -> Iterator[None]:
    """Leave clipping to the Trainer: what the user's code clips stays as it is."""
    import torch

    if pipeline.trainer is None:
        raise CannotApply("a loop has no other clip than its own")
    accelerator, utils = pipeline.trainer.accelerator, torch.nn.utils
    clip, by_trainer = utils.clip_grad_norm_, accelerator.clip_grad_norm_
    trainers: list[None] = []
    left: list[None] = []

    def own(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        if trainers:
            return clip(parameters, max_norm, *args, **kwargs)
        left.append(None)
        return clip(parameters, float("inf"), *args, **kwargs)

    def allowed(*args: Any, **kwargs: Any) -> Any:
        trainers.append(None)
        try:
            return by_trainer(*args, **kwargs)
        finally:
            trainers.clear()

    with changed(accelerator, clip_grad_norm_=allowed), changed(utils, clip_grad_norm_=own):
        yield
    if not left:
        raise CannotApply("no call of torch.nn.utils.clip_grad_norm_ was seen")


@contextlib.contextmanager
def callbacks_left_out(pipeline: Pipeline, names: tuple[str, ...]) -> Iterator[None]:
    """Leave out the callbacks whose classes have these names."""
    handler = getattr(pipeline.trainer, "callback_handler", None)
    if handler is None:
        raise CannotApply("only a Trainer has callbacks")
    kept = [one for one in handler.callbacks if type(one).__name__ not in names]
    with changed(handler, callbacks=kept):
        yield
