"""Settings of the loss, each switched off for one look at the first micro-batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.snapshot import restored

if TYPE_CHECKING:
    from torch import Tensor

SMOOTHING = "label_smoothing_factor"
"""What a Trainer makes a ``label_smoother`` of when it is built."""

OF_THE_LOSS = (SMOOTHING, "label_smoothing", "rpo_alpha", "ld_alpha", "simpo_gamma", "cpo_alpha")
"""Arguments of Trainers that change nothing but the loss, and what it is at one time only."""


@dataclass(frozen=True)
class Setting:
    """One setting that is not at its default.

    Attributes:
        name: of the argument.
        value: what it is.
        default: what it was set to for the look.
        effective: whether loss or gradient were others without it.
    """

    name: str
    value: Any
    default: Any
    effective: bool


def ask_settings(trainer: Any, ask: Callable[[], Tensor]) -> list[Setting]:
    """Ask for loss and gradient with each setting of the loss at its default.

    Args:
        trainer: the user's.
        ask: returns loss and a sample of the gradient of the first micro-batch, by the same random
            numbers each time.
    """
    import torch

    chosen = [
        (field.name, getattr(trainer.args, field.name), field.default)
        for field in dataclasses.fields(trainer.args)
        if field.name in OF_THE_LOSS
        and getattr(trainer.args, field.name) not in (field.default, None, 0)
    ]
    found = []
    usual = ask() if chosen else None
    for name, value, default in chosen:
        with _without(trainer, name, default):
            effective = usual is None or not torch.equal(ask(), usual)
        found.append(Setting(name, value, default, effective))
    return found


@contextlib.contextmanager
def _without(trainer: Any, name: str, default: Any) -> Iterator[None]:
    """Set an argument, and what the Trainer made of it, to its default."""
    with restored([trainer, trainer.args]):
        setattr(trainer.args, name, default)
        if name == SMOOTHING:
            trainer.label_smoother = None
        elif hasattr(trainer, name):
            setattr(trainer, name, default)
        yield
