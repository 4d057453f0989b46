"""The callbacks that are part of a run, and those that report it or save it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainsanity.isolation.overrides import LIBRARIES, own_methods

REPORTERS = (
    *LIBRARIES, "azureml", "clearml", "codecarbon", "comet_ml", "dvclive", "flytekit", "mlflow",
    "neptune", "optuna", "ray", "swanlab", "tensorboard", "tensorboardX", "trackio", "trainsanity",
    "wandb", "weave",
)  # fmt: skip
"""Packages whose callbacks send, show, save or stop by an evaluation's metrics."""

BASES = ("TrainerCallback", "ExportableState")
"""Classes of transformers that a user's own callback is derived from."""

STEP = (
    "on_train_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
)
"""Events of a step.  Who hears none of them, only tells of steps or saves."""

DURING = (*STEP, "on_log")
"""Events that a recorded step has: an epoch's or a training's end comes long after it."""

EVERYBODYS = ("DefaultFlowCallback", "ProgressCallback", "PrinterCallback",
              "NotebookProgressCallback")  # fmt: skip
"""What the Trainer brings itself: nobody needs to be told that these are left out."""


def taking_part(trainer: Any) -> list[Any]:
    """Return the callbacks that take part in the recorded steps: the user's own."""
    return [one for one in _callbacks(trainer) if not _why_not(one)]


def left_out(trainer: Any) -> list[str]:
    """Return the names of those that do not, besides the Trainer's own, each with the reason."""
    found = ((type(one).__name__, _why_not(one)) for one in _callbacks(trainer))
    return [f"{name} ({why})" for name, why in found if why and name not in EVERYBODYS]


def _callbacks(trainer: Any) -> Sequence[Any]:
    return list(getattr(getattr(trainer, "callback_handler", None), "callbacks", ()))


def _why_not(callback: Any) -> str:
    classes = [one for one in type(callback).__mro__ if one.__name__ not in (*BASES, "object")]
    package = next((name for one in classes if (name := _package(one)) in REPORTERS), None)
    if package is not None:
        return f"of {package}"
    return "" if own_methods(callback, STEP) else "hears of no step"


def _package(cls: type) -> str:
    return str(cls.__module__).partition(".")[0]


def only_during_steps(handler: Any, callbacks: Sequence[Any]) -> None:
    """Let a handler's callbacks hear the events of steps alone; see :data:`DURING`."""
    call_event, of_users = handler.call_event, {id(one) for one in callbacks}

    def hearing(event: str, *args: Any, **kwargs: Any) -> Any:
        everybody = handler.callbacks
        if event not in DURING:
            handler.callbacks = [one for one in everybody if id(one) not in of_users]
        try:
            return call_event(event, *args, **kwargs)
        finally:
            handler.callbacks = everybody

    handler.call_event = hearing
