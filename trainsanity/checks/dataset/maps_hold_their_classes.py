"""TS243 dataset.maps_hold_their_classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.label_maps import LabelMaps
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

VOID = 255
"""The label of pixels that image processors leave for nobody; also what 0 - 1 is in bytes."""

BETWEEN = 0.95
"""Share of a class's pixels that have both a lower and a higher class around them.  A choice below
1: where two borders meet, a blend may stand alone."""

ENOUGH = 32
"""Pixels of a class from which on their places are no chance."""

BORDERS = 0.25
"""Share of all pixels that borders can be.  A choice: where more is thin, classes are levels, as in
a map of depths, and each lies between its neighbours."""


@check(
    "TS243",
    "dataset.maps_hold_their_classes",
    needs=("train_dataset",),
    rules_out="maps of labels that were changed on the way",
)
def maps_hold_their_classes(
    pipeline: Pipeline, label_maps: LabelMaps
) -> Iterator[Measured | Finding]:
    """Resized segmentation maps hold only the classes that were drawn.

    What it checks: the classes in the maps of rows from all over the dataset: that there is more
    than one, and that none is found only on borders between a lower and a higher class.

    Why it matters: with ``do_reduce_labels`` background becomes 255, which nobody counts; of a
    dataset of background and object one class is left, and the model learns to answer it
    everywhere. A map that is resized bilinearly has class 1 and 2 between 0 and 3.

    How it is measured: exact, on up to 32 rows. One class beside ignored pixels, for a model of two
    or more, is a failure. So are two or more classes of which no 3 x 3 pixels lie together and 95 %
    of the pixels have a lower and a higher class within two pixels, if they are at most a quarter
    of all pixels; one such class is a warning, since it may be a border that was drawn.

    How to fix: ``do_reduce_labels=True`` only where 0 means "nobody labelled this" (ADE20k); resize
    maps by the nearest neighbour::

        # bad
        map.resize((512, 512), Image.BILINEAR)
        # good
        map.resize((512, 512), Image.NEAREST)

    Known false alarms: maps in which several classes are borders, numbered between their sides.

    References: open-mmlab/mmsegmentation#2508, divamgupta/image-segmentation-keras#11.
    """
    import torch

    maps = label_maps.maps
    void = getattr(pipeline.config, "semantic_loss_ignore_index", None)
    ignored = {IGNORED, VOID if void is None else int(void)}
    found = sorted({int(one) for each in maps for one in each.unique()})
    classes = [one for one in found if one not in ignored]
    labels = int(getattr(pipeline.config, "num_labels", 0) or 0)
    if len(classes) == 1 and len(found) > 1 and labels > 1 and len(maps) > 1:
        processor = getattr(pipeline.trainer, "processing_class", None)
        reduces = bool(getattr(processor, "do_reduce_labels", False))
        yield Finding(
            f"only one class ({classes[0]}) is ever a target in {len(maps)} maps, beside ignored "
            f"pixels ({', '.join(str(one) for one in found if one in ignored)}); the model has "
            f"{labels}",
            observed=classes,
            expected="2 classes or more",
            where="train_dataset",
            cause="do_reduce_labels makes background (0) 255, which is ignored, and moves every "
            "other class down by one"
            if reduces
            else "background became the ignored label, and one class is left to answer everywhere",
            fix="do_reduce_labels=False, unless 0 means that nobody labelled a pixel",
        )
    blends = [
        one
        for one in classes[1:-1]
        if sum(int((each == one).sum()) for each in maps) >= ENOUGH
        and _between(maps, one, torch.tensor(sorted(ignored)))
    ]
    if blends and _share(maps, blends, ignored) <= BORDERS:
        yield Finding(
            f"{len(blends)} classes ({', '.join(map(str, blends))}) are found on borders alone, "
            f"between a lower and a higher class ({len(maps)} maps)",
            observed=blends,
            expected=[],
            where="train_dataset",
            cause="maps were resized by interpolation (bilinear), which puts class numbers between "
            "those of both sides that nobody drew",
            fix="resize maps by the nearest neighbour",
            severity=Severity.FAILURE if len(blends) > 1 else Severity.WARNING,
        )
    yield Measured(
        f"{len(classes)} different classes are in {len(maps)} maps; {len(blends)} of them on "
        "borders alone",
        {"classes": classes, "on borders alone": blends},
    )


def _share(maps: list[Tensor], classes: list[int], ignored: set[int]) -> float:
    """Return the share of the counted pixels that have one of these classes."""
    import torch

    pixels = torch.cat([each.flatten() for each in maps])
    counted = pixels[~torch.isin(pixels, torch.tensor(sorted(ignored)))]
    return float(torch.isin(counted, torch.tensor(classes)).float().mean())


def _between(maps: list[Tensor], one: int, ignored: Tensor) -> bool:
    """Return whether a class has no pixel inside, and lower and higher classes around."""
    import torch
    from torch.nn.functional import max_pool2d

    count = between = 0
    for each in maps:
        here = each == one
        if not bool(here.any()):
            continue
        counted = ~torch.isin(each, ignored)
        outside = max_pool2d((~here)[None, None].float(), 3, 1, 1)[0, 0]
        if bool((outside[1:-1, 1:-1] == 0).any()):
            return False
        lower, higher = (
            max_pool2d((side & counted)[None, None].float(), 5, 1, 2)[0, 0] > 0
            for side in (each < one, each > one)
        )
        count += int(here.sum())
        between += int((here & lower & higher).sum())
    return between >= BETWEEN * count
