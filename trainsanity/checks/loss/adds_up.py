"""TS511 loss.adds_up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loss.formula_is_known import DECLARE
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import CUSTOM
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS511",
    "loss.adds_up",
    cost=Cost.STEP,
    requires=("loss.finite",),
    explained_by=("loss.formula_is_known",),
    rules_out="reduction of the loss",
)
def adds_up(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The loss of a batch is a mean over its rows.

    What it checks: the loss of the first rows of the step as one batch against the losses of each
    of them alone.

    Why it matters: a sum makes the learning rate grow with the batch size, and max_grad_norm clip
    everything; statistics over the batch make an example's loss depend on its neighbours.

    How it is measured: the user's own compute_loss, every layer in eval mode, on up to eight rows
    together and on each alone. A mean, with whatever weights, lies between the smallest and the
    largest. N times the mean of N rows is a sum and a failure; anything else outside is a warning,
    since a loss over pairs in the batch is meant to be so. Tolerance: four units in the last place
    of the coarsest dtype and the order of float32 sums.

    How to fix: reduction="mean", or divide by num_items_in_batch.

    Known false alarms: a contrastive loss of your own, whose negatives are the other rows, is a
    warning, which objective = "custom" ends (see loss.formula_is_known); a sum stays a failure.

    References: ai-safety-foundation/sparse_autoencoder#63, WongKinYiu/yolov7#1713.
    """
    seen = recording.rearranged
    if seen.reason or len(seen.alone) < 2:
        raise Skip(seen.reason or seen.drawn or "the micro-batch has one row")
    if not all(map(math.isfinite, [*seen.alone, seen.together])):
        raise Skip("a row alone has no loss: it has no target, or the loss needs several rows")
    low, high, count = min(seen.alone), max(seen.alone), len(seen.alone)
    mean = sum(seen.alone) / count
    allowed = (MARGIN * seen.eps + REDUCTIONS) * max(abs(low), abs(high), abs(seen.together))
    outside = not (within(low - seen.together, allowed) and within(seen.together - high, allowed))
    if outside and mean and within(abs(seen.together - count * mean), count * allowed):
        yield Finding(
            f"the loss of {count} rows is {seen.together:.4f}, the sum of what each has alone; "
            f"their mean is {mean:.4f}",
            observed=seen.together,
            expected=mean,
            factor=seen.together / mean,
            where="compute_loss",
            cause="the loss is summed over rows",
            fix='reduction="mean"'
            + ("" if pipeline.trainer is None else ", or divide by the num_items_in_batch it gets"),
        )
    elif outside and objective_of(pipeline).additive and pipeline.objective != CUSTOM:
        yield Finding(
            f"the loss of {count} rows is {seen.together:.4f}, outside of what they have alone, "
            f"{low:.4f} to {high:.4f}: a row's loss depends on the rows beside it",
            observed=seen.together,
            expected=mean,
            where="compute_loss",
            cause="statistics over the batch, or pairs of its rows",
            fix=DECLARE,
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{count} rows together have a loss of {seen.together:.4f}, alone {low:.4f} to {high:.4f}",
        seen.together,
        mean,
    )
