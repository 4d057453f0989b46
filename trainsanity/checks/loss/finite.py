"""TS503 loss.finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    pass


@check(
    "TS503",
    "loss.finite",
    cost=Cost.STEP,
    requires=("model.logits_finite",),
    rules_out="loss scale",
)
def finite(recording: Recording) -> Iterator[Measured | Finding]:
    """Every micro-batch's loss is a number.

    What it checks: the loss of each micro-batch of the recorded optimizer steps, as
    ``training_step`` returned it.

    Why it matters: ``logging_nan_inf_filter`` is on by default: where a loss is NaN or infinite the
    Trainer logs the average of the earlier ones in its place, and the gradient is NaN all the same.

    How it is measured: ``isfinite`` on each micro-batch's loss, before the filter.

    How to fix: run the named micro-batch alone with ``torch.autograd.detect_anomaly``; rows with
    nothing to learn from (all labels -100) and logarithms of zero are where to look.

    Known false alarms: none known.

    References: ``TrainingArguments.logging_nan_inf_filter``.
    """
    several = any(micro.rank for micro in recording.first.micro_steps)
    losses = [
        (
            micro.loss,
            f"micro-batch {k} of step {number}" + (f", process {micro.rank}" if several else ""),
            step,
        )
        for number, step in enumerate(recording.steps, 1)
        for k, micro in enumerate(step.micro_steps)
    ]
    bad = [seen for seen in losses if not math.isfinite(seen[0])]
    if bad:
        loss, where, step = bad[0]
        logged = step.logged.get("loss", math.nan)
        yield Finding(
            f"{len(bad)} of {len(losses)} micro-batches have a loss of {loss}; "
            f"the Trainer logs {logged:.4f} all the same",
            observed=loss,
            expected="a number",
            where=where,
            cause="nothing to average (all labels -100), or a logarithm or division of zero",
            fix="look at that micro-batch's rows; logging_nan_inf_filter=False shows it in the log",
        )
    yield Measured(f"{len(losses)} of {len(losses)} micro-batch losses are finite",
               len(losses) - len(bad), len(losses))  # fmt: skip
