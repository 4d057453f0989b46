"""The loss that one step at the peak rate leaves behind."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.random_states import global_random_states
from trainsanity.isolation.snapshot import restored
from trainsanity.measurements.step.hooks import state_of

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording


def note_loss(trainer: Any, seen: Recording) -> None:
    """Note the loss of the first micro-batch with the weights as they are now.

    It is what ``training_step`` returns for it as a whole step, as in ``own.losses``, without a
    backward pass. Nothing is noted where it cannot be asked again: that costs a verdict and no run.
    """
    own, first = seen.own, seen.first.micro_steps[0].again
    engine = getattr(trainer, "is_deepspeed_enabled", False)
    if first is None or own.reason or not own.losses or engine:
        return
    undo, state = global_random_states(), state_of(trainer.model)
    gradients = [(p, p.grad) for p in trainer.model.parameters()]
    seen.asking = True
    try:
        with _without_backward(trainer):
            seen.peak_loss = first.take()[0]
    except Exception:
        seen.peak_loss = math.nan
    finally:
        seen.asking = False
        for parameter, gradient in gradients:
            parameter.grad = gradient
        state.put_back()
        undo()


@contextlib.contextmanager
def _without_backward(trainer: Any) -> Iterator[None]:
    """Let ``training_step`` compute its loss alone, of a micro-batch that is a whole step."""
    import torch

    with restored([trainer, trainer.args, trainer.state, trainer.control, trainer.accelerator]):
        trainer.args.gradient_accumulation_steps = 1
        trainer.current_gradient_accumulation_steps = 1
        trainer.accelerator.backward = lambda *_, **__: None
        with torch.no_grad():
            yield
