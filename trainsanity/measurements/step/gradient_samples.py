"""Some elements of each parameter's gradient, in one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.measurements.step.sampling import sample

if TYPE_CHECKING:
    from torch import Tensor

ELEMENTS = 4096
"""Elements of each parameter's gradient that are compared.  A large model has hundreds of tensors:
with a million elements a weight is known to a thousandth of the noise of a single one."""

AT_MOST = 1 << 26
"""Elements kept over all micro-batches, in float32 a quarter of a gigabyte: with more micro-batches
fewer of each parameter are kept."""


def sampled(parameters: dict[str, Any], size: int) -> Tensor:
    """Return ``size`` elements of each parameter's gradient in one vector; 0 for none."""
    import torch

    return torch.cat(
        [
            _some(p.grad, size) if p.grad is not None else torch.zeros(min(size, p.numel()))
            for p in parameters.values()
        ]
    )


def sampled_of(gradients: dict[str, Any], parameters: dict[str, Any], size: int) -> Tensor:
    """Return ``size`` elements of each parameter's sampled gradient in one vector; 0 for none."""
    import torch

    return torch.cat(
        [
            _spread(gradients[name], size).float()
            if name in gradients
            else torch.zeros(min(size, p.numel()))
            for name, p in parameters.items()
        ]
    )


def _some(gradient: Tensor, size: int) -> Tensor:
    return _spread(sample(gradient), size).float()


def _spread(values: Tensor, size: int) -> Tensor:
    """Return ``size`` elements of a sampled gradient (1-D), or all if there are fewer."""
    stride = max(1, len(values) // size)
    return values[::stride][:size]
