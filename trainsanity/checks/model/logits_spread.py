"""TS403 model.logits_spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.model._head import head_weight, planned_deviation, width_of_a_draw
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import STANDARD_ERRORS, within
from trainsanity.measurements.model.forward import Forward
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@check(
    "TS403",
    "model.logits_spread",
    cost=Cost.FORWARD,
    requires=("model.head_init",),
    rules_out="head initialisation",
)
def logits_spread(pipeline: Pipeline, forward: Forward) -> Iterator[Measured | Finding]:
    """The spread of the logits follows from the head's weights and inputs.

    What it checks: the standard deviation of each row's logits against head std x norm of the
    vector that the head read, for a freshly drawn head.

    Why it matters: something between the head and the loss that rescales logits (a temperature, a
    cap, a second scaling) changes the loss, its gradient and every later probability.

    How it is measured: for a head drawn at random the C logits of a row are independent with
    standard deviation std(W) |h|; the ratio of the two, averaged over rows, has a relative
    standard error of at most 1 / sqrt(2 (C - 1)).  Four of those are allowed.  The cause is
    named by what explains the ratio: a regression of the logits on the head's own output, or the
    same comparison without the head's bias.

    How to fix: find what rescales the logits after the head, or draw the bias anew; if it is
    meant, name the check in expected_failures.

    Known false alarms: a head that is no longer random is skipped.

    References: field measurement: SmolLM2-135M, predicted 6.106 nats, seen 6.02.
    """
    weight = head_weight(pipeline, forward)
    if forward.vectors is None:
        raise Skip("no position of the head's output has the direction of the logits")
    std, planned = float(weight.double().std()), planned_deviation(pipeline)
    if abs(std / planned - 1) > width_of_a_draw(weight.numel()):
        raise Skip(f"the head is not freshly drawn (std {std:.4g}, initializer_range {planned:g})")
    predicted = std * forward.vectors.norm(dim=-1)
    ratio = float((forward.logits.std(dim=-1) / predicted).mean())
    allowed = STANDARD_ERRORS / math.sqrt(2 * (len(weight) - 1))
    observed, expected = float(forward.logits.std(dim=-1).mean()), float(predicted.mean())
    if not within(abs(ratio - 1), allowed):
        scale = statistics.mean(one.scale for one in forward.passes)
        cause, fix = _explain(pipeline, forward, scale, predicted, allowed)
        yield Finding(
            f"the logits have a standard deviation of {observed:.3f}; "
            f"head and hidden states make {expected:.3f}",
            observed=observed,
            expected=expected,
            # The regression on the head's own output is exact where it saw a scaling.
            factor=scale if scale != 1 else ratio,
            where=forward.head_name,
            cause=cause,
            fix=fix,
        )
    yield Measured(f"logits std {observed:.3f}, predicted {expected:.3f}", observed, expected)


def _explain(
    pipeline: Pipeline, forward: Forward, scale: float, predicted: Tensor, allowed: float
) -> tuple[str, str]:
    """Return cause and fix, as far as the head's own output and its bias show them."""
    if scale != 1:
        return (
            f"something rescales the logits after the head, by {scale:.3g}",
            "remove the scaling, or apply it where the loss is defined",
        )
    bias = getattr(pipeline.model.get_submodule(forward.head_name), "bias", None)
    if bias is not None:
        bare = forward.logits - bias.detach().double().cpu()
        if within(abs(float((bare.std(dim=-1) / predicted).mean()) - 1), allowed):
            return (
                f"the head's bias: its largest element is {float(bias.detach().abs().max()):.3g}, "
                "and without it the logits are as wide as expected",
                f"draw it anew: {forward.head_name}.bias.data.zero_()",
            )
    return (
        "nothing rescales the logits after the head: its weights are not independent of what it "
        "reads",
        "draw the head anew, or name the check in expected_failures if it is meant",
    )
