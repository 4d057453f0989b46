"""Parameters without a gradient that the step does not use: whatever they are, nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EACH = 16
"""Parameters that are changed one by one where some of them are used and others not."""


def unused_parameters(parameters: dict[str, Any], ask: Callable[[], Tensor]) -> Collection[str]:
    """Return those that can be changed without any effect on loss and gradient.

    Args:
        parameters: trainable ones without a gradient.
        ask: returns loss and gradient of a micro-batch, with the same random numbers each time.
    """
    if not parameters:
        return ()
    plain, noise = ask(), ask()
    allowed = 2 * float((noise - plain).abs().max())

    def without_effect(names: Collection[str]) -> bool:
        import torch

        before = [parameters[name].detach().clone() for name in names]
        try:
            with torch.no_grad():
                for name in names:
                    parameters[name].add_(parameters[name].abs() + 0.1)
            return bool((ask() - plain).abs().max() <= allowed)
        finally:
            with torch.no_grad():
                for name, values in zip(names, before, strict=True):
                    parameters[name].copy_(values)

    if without_effect(parameters):
        return set(parameters)
    if len(parameters) > EACH:
        return ()
    return {name for name in parameters if without_effect([name])}
