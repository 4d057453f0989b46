"""Frozen weights that follow trained ones, as a momentum encoder or a target network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import is_sharded
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.step.sampling import sample

if TYPE_CHECKING:
    from torch import Tensor, nn


SAMPLE = 4096
"""Elements of a weight that are kept: a mean of a few vectors shows in many fewer."""


class Followed:
    """Trained weights beside the frozen ones that have their shapes and, in another part, names.

    Args:
        model: before the first recorded step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.pairs = _twins(model)
        weights = dict(model.named_parameters())
        self.before = {one: _some(weights[one]) for one in self.pairs}
        self.seen: dict[str, list[Tensor]] = {one: [] for one in self.pairs}

    def note(self, model: nn.Module) -> None:
        """Note where the trained ones are, after an optimizer step."""
        weights = dict(model.named_parameters()) if self.pairs else {}
        for one, twin in self.pairs.items():
            self.seen[one].append(_some(weights[twin]))

    def follow(self, model: nn.Module) -> set[str]:
        """Return the frozen ones that lie between where they were and where their twins have been.

        A moving average is a mean of these, whatever its decay, in which no weight is negative.
        """
        weights = dict(model.named_parameters())
        return {one for one in self.pairs if self._is_mean(_some(weights[one]), one)}

    def _is_mean(self, now: Tensor, one: str) -> bool:
        import torch

        before = self.before[one].double()
        towards = torch.stack([twin.double() - before for twin in self.seen[one]], 1)
        moved = now.double() - before
        shares = torch.linalg.lstsq(towards, moved[:, None], driver="gelsd").solution[:, 0]
        rest = float((towards @ shares - moved).norm())
        eps = torch.finfo(now.dtype).eps if now.is_floating_point() else 0.0
        rounding = MARGIN * eps * float(now.double().norm())
        # A step that moves nothing leaves a direction, and rounding decides its share.
        least = -rounding / max(rounding, float(moved.norm()))
        return (
            rest <= rounding and bool((shares >= least).all()) and float(shares.sum()) <= 1 - least
        )


def _some(weight: Any) -> Tensor:
    some: Tensor = sample(weight)[:SAMPLE]
    return some


def _twins(model: nn.Module) -> dict[str, str]:
    """Return by frozen parameter the trained one of its shape whose name ends most alike."""
    trained: dict[tuple[Any, ...], list[str]] = {}
    frozen = []
    for name, weight in model.named_parameters():
        if is_sharded(weight):
            return {}
        key = (name.rpartition(".")[2], tuple(weight.shape))
        if weight.requires_grad:
            trained.setdefault(key, []).append(name)
        else:
            frozen.append((name, key))
    return {
        name: max(trained[key], key=lambda other: _common_end(name, other))
        for name, key in frozen
        if key in trained
    }


def _common_end(one: str, other: str) -> int:
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    count = 0
    for a, b in pairs:
        if a != b:
            break
        count += 1
    return count
