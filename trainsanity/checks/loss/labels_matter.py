"""TS510 loss.labels_matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.distillation import DISTILLATION
from trainsanity.types import Abstain, Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS510",
    "loss.labels_matter",
    cost=Cost.STEP,
    requires=("loss.finite", "gradient.finite"),
    follows=("loss.shapes_agree",),
    rules_out="labels",
)
def labels_matter(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Labels that are swapped between rows give another gradient.

    What it checks: the gradient of the first micro-batch against its gradient with the labels
    exchanged among rows (tokens, for labels of tokens) that differ in them.

    Why it matters: outputs of shape [B, 1] against targets of shape [B] are broadcast to every
    pair, with a warning that scrolls by: the loss goes down to the variance of the targets, and the
    model learns their mean. A label that nobody reads looks the same.

    How it is measured: the user's own training step, with the same random numbers; the gradient and
    not the loss, since a head of zeros gives every label the same loss. A change of no more than
    four units in the last place and the order of float32 sums, relative to the gradient, is none;
    with weights of 16 bits, where that is much, only no change at all is a failure.

    How to fix: logits.squeeze(-1) before the squared error; give the labels to the loss.

    Known false alarms: a loss that is given its targets by another name than label_names says.

    References: pytorch/pytorch#16045, deepset-ai/FARM#229.
    """
    import torch

    if objective_of(pipeline).name == DISTILLATION:
        raise Skip("labels only say where a teacher is followed")
    seen = recording.rearranged
    if seen.reason or math.isnan(seen.relabelled):
        raise Skip(seen.reason or "the micro-batch has no labels that differ between its rows")
    floor = MARGIN * seen.eps + REDUCTIONS
    if seen.repeats and seen.relabelled <= floor:
        raise Skip("the labels repeat the input ids, and the loss takes its targets from those")
    if recording.teachers and seen.relabelled <= floor:
        raise Skip(f"the targets come from {recording.teachers[0].name}, which runs beside it")
    # Labels that are not read leave nothing but rounding, and often nothing at all.  Rows that a
    # new encoder hardly tells apart leave little more, which a dtype of 16 bits does not resolve.
    if 0 < seen.relabelled <= floor and seen.eps > torch.finfo(torch.float32).eps:
        raise Abstain(
            f"exchanging the {seen.label} among rows changes the gradient by {seen.relabelled:.2g} "
            f"of itself, and rounding may change it by {floor:.2g}: too coarse to tell"
        )
    if seen.relabelled <= floor:
        yield Finding(
            f"exchanging the {seen.label} among rows changes the gradient by {seen.relabelled:.2g} "
            f"of itself, no more than rounding ({floor:.2g})",
            observed=seen.relabelled,
            expected=floor,
            where=seen.label,
            cause="targets are broadcast against outputs of another shape, or nobody reads the "
            "labels",
            fix="give outputs and targets one shape: logits.squeeze(-1) for [B, 1] against [B]",
        )
    yield Measured(
        f"exchanging the {seen.label} among rows changes the gradient by {seen.relabelled:.2g} of "
        f"itself; rounding changes it by up to {floor:.2g}",
        seen.relabelled,
        floor,
    )
