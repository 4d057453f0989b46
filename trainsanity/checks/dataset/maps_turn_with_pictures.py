"""TS242 dataset.maps_turn_with_pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.reread import Reread, picture_and_map
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

AXES = ((-1,), (-2,), (-1, -2))
"""Flips: left and right, upside down, both."""


@check(
    "TS242",
    "dataset.maps_turn_with_pictures",
    needs=("train_dataset",),
    rules_out="maps that are not flipped",
)
def maps_turn_with_pictures(reread: Reread) -> Iterator[Measured | Finding]:
    """Random flips of a picture also flip its segmentation map.

    What it checks: readings of one row of the training data that are mirror images of each other,
    and whether their maps are.

    Why it matters: in half of the rows the map tells where the object was before the flip. The
    model learns to see objects on both sides.

    How it is measured: exact. Each of 8 rows is read 6 times; of two readings whose pixels are each
    other's mirror image, and no mirror images of themselves, the labels have to be, too. Maps that
    are symmetric say nothing.

    How to fix: draw once, and change both::

        # bad
        picture = flip(picture)
        # good
        picture, map = flip(picture, map)

    Known false alarms: none known.

    References: huggingface/cookbook#248.
    """
    flipped = wrong = 0
    maps = False
    for readings in reread.train:
        pixels, labels = picture_and_map(readings[0])
        if not pixels:
            continue
        maps = True
        for one in readings[1:]:
            axes = _mirrored(readings[0][pixels], one[pixels])
            if axes is None:
                continue
            before, after = readings[0][labels], one[labels]
            if _equal(before, before.flip(axes)):
                continue
            flipped += 1
            wrong += _equal(before, after)
    if not maps:
        raise Skip("rows have no pixels beside a map of labels of the same size")
    if wrong:
        yield Finding(
            f"{wrong} of {flipped} readings of a row have the picture flipped and its map of "
            "labels as it was",
            observed=wrong,
            expected=0,
            where="train_dataset",
            cause="the picture is flipped at random, and the map is not: augmentation of the "
            "geometry has to change both alike",
            fix="draw the flip once and apply it to picture and map",
        )
    yield Measured(
        f"{flipped} readings of a row have a flipped picture, {wrong} of them beside the map as it "
        "was",
        wrong,
        0,
    )


def _mirrored(one: Tensor, other: Tensor) -> tuple[int, ...] | None:
    """Return the axes in which the second picture is the first one's mirror image."""
    if _equal(one, other):
        return None
    return next((axes for axes in AXES if _equal(one.flip(axes), other)), None)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())
