"""TS329 collator.channels_are_planes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.fields import PIXELS, role_of
from trainsanity.measurements.batches.batch import Batch
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = 3
ENOUGH = 4
"""Pictures from which on it is no chance that all of them say the same."""

SMOOTHER = 0.9
"""How much smoother every picture has to be when its channels are read side by side.  A choice:
pictures of nothing but noise differ by 1 / sqrt(pixels), 4 % at 16 x 16; colours that are read in
the wrong order differ by more than their noise as soon as there is any colour."""


@check(
    "TS329",
    "collator.channels_are_planes",
    needs=("data_collator",),
    rules_out="channels that are mixed",
)
def channels_are_planes(batch: Batch) -> Iterator[Measured | Finding]:
    """Pictures of the batch have their channels first, as ``[B, 3, H, W]``.

    What it checks: pictures of three channels in the first step's batches, ``[B, 3, H, W]``:
    whether neighbours in a plane are neighbours in the picture.

    Why it matters: ``reshape`` gives ``[H, W, 3]`` the shape ``[3, H, W]`` and leaves the numbers
    where they are. Each plane is a third of the picture then, with its colours side by side. The
    model trains on it, worse.

    How it is measured: the mean difference of neighbours, across and down, as the planes are, and
    as they would be if the numbers were ``[H, W, 3]``. Pictures are smoother in the order in which
    they were taken. Only if every one of at least 4 pictures is smoother by a tenth the other way,
    it is a failure.

    How to fix: ``permute(2, 0, 1)``, or the image processor.

    Bad::

        torch.tensor(picture).reshape(3, height, width)

    Good::

        torch.tensor(picture).permute(2, 0, 1)

    Known false alarms: pictures of stripes that repeat every three pixels.

    References: Selen-Suyue/DensePolicy2D#3.
    """
    ratios: list[float] = []
    for micro in batch:
        for name, value in micro.inputs.items():
            if role_of(name) == PIXELS and getattr(value, "ndim", 0) == 4:
                ratios += _ratios(value.detach().float().cpu())
    if len(ratios) < ENOUGH:
        raise Skip(f"the batch has fewer than {ENOUGH} pictures of three channels")
    most, mixed = max(ratios), sum(one < SMOOTHER for one in ratios)
    if mixed == len(ratios):
        yield Finding(
            f"{mixed} of {len(ratios)} pictures are smoother if their numbers are read as "
            f"[H, W, 3] (by {1 - most:.0%} and more): the channels are mixed",
            observed=most,
            expected="1 or more",
            where="pixel_values",
            cause="reshape or view in place of permute: the shape is right, and each plane holds "
            "all three colours side by side",
            fix="picture.permute(2, 0, 1) for pictures of [H, W, 3]",
        )
    yield Measured(
        f"{mixed} of {len(ratios)} pictures are smoother if their numbers are read as [H, W, 3]",
        mixed,
        0,
    )


def _ratios(pixels: Tensor) -> list[float]:
    """Return for each picture how rough it is as [H, W, 3], over how rough it is as it stands."""
    if pixels.shape[1] != CHANNELS or min(pixels.shape[2:]) < 4:
        return []
    count, _, height, width = pixels.shape
    other = pixels.reshape(count, height, width, CHANNELS).permute(0, 3, 1, 2)
    mine, others = (_roughness(one) for one in (pixels, other))
    return [float(b / a) for a, b in zip(mine, others, strict=True) if float(a) > 0]


def _roughness(pixels: Tensor) -> Tensor:
    across = pixels.diff(dim=-1).abs().mean((1, 2, 3))
    down = pixels.diff(dim=-2).abs().mean((1, 2, 3))
    return across + down
