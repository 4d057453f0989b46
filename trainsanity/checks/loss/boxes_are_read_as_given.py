"""TS541 loss.boxes_are_read_as_given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ENOUGH = 4
"""Boxes from which on it is no chance that most of them are read beyond the picture's borders."""

ROUNDED = 1e-3
"""How far a corner may lie beyond the picture: half a pixel of 500, by the rounding of boxes."""

SAME = 1e-5
"""Boxes that are turned to corners and back in float32 differ by less."""


@check(
    "TS541",
    "loss.boxes_are_read_as_given",
    cost=Cost.STEP,
    rules_out="boxes in another form",
)
def boxes_are_read_as_given(
    pipeline: Pipeline, recording: Recording
) -> Iterator[Measured | Finding]:
    """Boxes have the format and the scale that the loss reads them in.

    What it checks: where the loss turns boxes of the batch from centre and size to corners, whether
    the corners lie between 0 and 1.

    Why it matters: boxes are four numbers in any form. Corners, or a corner and a size, that are
    read as a centre and a size are other and mostly larger boxes, and the model learns these.

    How it is measured: each ``cat`` or ``stack`` of the first steps whose result has four numbers
    in its last axis and no gradient is turned back; what equals a float tensor of the batch is what
    the loss reads. Augmentation may push a box over the border; more than half of at least 4 boxes
    beyond it is a failure. Of boxes in pixels only the borders at 0 are known.

    How to fix: give boxes as the model reads them::

        # bad
        boxes = [left / width, top / height, right / width, bottom / height]
        # good
        boxes = torchvision.ops.box_convert(boxes, "xyxy", "cxcywh")

    Known false alarms: none known.

    References: weecology/DeepForest#1215; read: transformers.loss.loss_for_object_detection.
    """
    import torch

    given = [box for micro in recording.first.micro_steps for box in _fours(micro.inputs)]
    known = torch.cat(given) if given else torch.zeros(0, 4)
    read, where = [], ""
    for one in recording.corners:
        apart = (one.given[:, None] - known[None]).abs() / known[None].abs().clamp(min=1)
        if len(known) and bool((apart.amax(-1).amin(-1) <= SAME).all()):
            read.append(one.boxes)
            where = where or one.where
    if not read:
        raise Skip("the loss turns no boxes of the batch from centre and size to corners")
    boxes = torch.cat(read)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    # In pixels the far borders are not known.
    unit = float(centre.max())
    far = 1 + ROUNDED if unit <= 1 + ROUNDED else float("inf")
    beyond = ((boxes < -ROUNDED * max(unit, 1.0)) | (boxes > far)).any(-1)
    count, whole = int(beyond.sum()), len(boxes)
    if whole >= ENOUGH and 2 * count > whole:
        ordered = bool((size > centre).all())
        yield Finding(
            f"{count} of {whole} boxes lie partly outside of the picture as the loss reads them, "
            f"from {float(boxes.min()):.4g} to {float(boxes.max()):.4g}",
            observed=count,
            expected=0,
            where=where,
            cause="boxes are given by two corners, and the loss takes them for a centre, a width "
            "and a height"
            if ordered
            else "boxes are given in another form than centre, width and height: by a corner and "
            "the size, perhaps",
            fix="(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, each divided "
            "by the width or the height of the picture",
        )
    yield Measured(
        f"{count} of {whole} boxes lie partly outside of the picture as the loss reads them",
        count,
        None,
    )


def _fours(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of four numbers a row in a batch, on the CPU."""
    import torch

    if isinstance(value, Mapping):
        for one in value.values():
            yield from _fours(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _fours(one)
    elif torch.is_tensor(value) and value.is_floating_point() and value.dim() > 1:
        fours = value.shape[-1] == 4 and value.numel() > 0
        yield from [value.detach().reshape(-1, 4).float().cpu()] if fours else []
