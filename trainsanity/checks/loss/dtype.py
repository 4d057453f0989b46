"""TS505 loss.dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Abstain, Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS505",
    "loss.dtype",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "loss.finite"),
    rules_out="precision",
)
def dtype(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The loss dtype is precise enough to resolve the loss.

    What it checks: the dtype of the loss that the backward pass starts from, against the standard
    error of its mean.

    Why it matters: around 11 a bfloat16 has steps of 1/16.  A loss of ten thousand tokens is known
    a hundred times better than that, and the rest is rounded away: the curve becomes a staircase.

    How it is measured: half a unit in the last place of the loss, in its dtype, against the
    standard error of the step's mean loss, computed from the items' own losses.  Rounding that is
    larger than the error is a warning: what is logged is coarse, and the weights move as before.
    float32 is what the library's own losses are computed in and always passes.

    How to fix: ``logits.float()`` before the loss.

    Known false alarms: none known.

    References: ``transformers.loss.loss_utils``; IEEE 754 for the unit in the last place.
    """
    import torch

    step = recording.first
    kind = step.micro_steps[0].loss_dtype
    name = str(kind).removeprefix("torch.")
    right = reference(pipeline, step)
    losses = torch.cat([items.losses for items in right.parts])
    _, exponent = math.frexp(right.mean)
    half_unit = math.ldexp(torch.finfo(kind).eps, exponent) / 4
    word = objective_of(pipeline).item_word
    spread = float(losses.std()) if len(losses) > 1 else None
    error = None if spread is None else spread / math.sqrt(len(losses))
    coarse = torch.finfo(kind).bits < 32
    # A new head gives all items about one loss: their spread is none that training would keep.
    if coarse and (spread is None or spread <= half_unit):
        raise Abstain("all items have one loss: there is no spread to hold the rounding against")
    if coarse and error is not None and not within(half_unit, error):
        yield Finding(
            f"the loss is {name}: around {right.mean:.2f} that rounds by up to {half_unit:.2g}, "
            f"and the mean over {right.count} {word} is known to {error:.2g}",
            observed=half_unit,
            expected=error,
            factor=half_unit / error,
            where="step 1",
            cause=f"the loss is computed from {name} logits, or cast to {name} afterwards",
            fix="compute it from logits.float()",
            severity=Severity.WARNING,
        )
    known = "unknown" if error is None else f"{error:.2g}"
    yield Measured(
        f"the loss is {name}, which rounds by up to {half_unit:.2g} around {right.mean:.3f}; "
        f"standard error of the mean over {right.count} {word}: {known}",
        half_unit,
        error,
    )
