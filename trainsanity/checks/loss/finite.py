"""TS503 loss.finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS503",
    "loss.finite",
    cost=Cost.STEP,
    requires=("model.logits_finite",),
    rules_out="loss scale",
)
def finite(recording: Recording) -> Iterator[Measured | Finding]:
    """Every micro-batch's loss is finite.

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
            micro,
            f"micro-batch {k} of {len(step.micro_steps)} in step {number}"
            + (f", process {micro.rank}" if several else ""),
            step,
        )
        for number, step in enumerate(recording.steps, 1)
        for k, micro in enumerate(step.micro_steps, 1)
    ]
    bad = [seen for seen in losses if not math.isfinite(seen[0].loss)]
    if bad:
        micro, where, step = bad[0]
        logged = step.logged.get("loss")
        log = "no loss" if logged is None else f"{logged:.4f}"
        cause, fix = _explain(micro, after_a_step=step is not recording.first)
        yield Finding(
            f"{len(bad)} of {len(losses)} micro-batches have a loss of {micro.loss}; "
            f"the log of that step shows {log}",
            observed=micro.loss,
            expected="a number",
            where=where,
            cause=cause,
            fix=fix,
        )
    good = len(losses) - len(bad)
    yield Measured(f"{good} of {len(losses)} micro-batch losses are finite", good, len(losses))


def _explain(micro: MicroStep, *, after_a_step: bool) -> tuple[str, str]:
    """Return cause and fix, by what the same logits and labels give as the reference loss."""
    if micro.items is None:
        return (
            "nothing to average (all labels -100), or a logarithm or division of zero",
            "look at that micro-batch's rows; logging_nan_inf_filter=False shows it in the log",
        )
    if not len(micro.items.losses):
        return (
            "the micro-batch has nothing that the loss counts: all its labels are -100",
            "drop rows without a label, or divide by num_items_in_batch",
        )
    own = float(micro.items.losses.mean())
    if math.isfinite(own):
        return (
            f"the loss of the same logits and labels is {own:.4f}: it becomes {micro.loss} after "
            "the logits, by a mean over nothing or a logarithm or division of zero",
            "look at what compute_loss does with that micro-batch",
        )
    if after_a_step:
        return (
            "the logits of that micro-batch are not finite, and before the first update they were: "
            "that step may have broken the weights, as in float16 under Adam, whose eps is 0 there",
            "look at the weights after one step; train float32 weights, under autocast (fp16=True) "
            "if it has to be quick",
        )
    return (
        "the logits of that micro-batch are not finite, or its labels are outside them",
        "run it alone with torch.autograd.detect_anomaly, or in float32",
    )
