"""TS531 loss.shapes_agree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SIZES = re.compile(
    r"target size \(torch\.Size\(\[([\d, ]*)\]\)\) that is different to the input size "
    r"\(torch\.Size\(\[([\d, ]*)\]\)\)"
)
"""Warning of torch's losses before they broadcast."""


@check("TS531", "loss.shapes_agree", cost=Cost.STEP, rules_out="broadcast targets")
def shapes_agree(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Regression losses compare outputs and targets of the same shape.

    What it checks: whether torch warned, while the first steps were taken, that a loss such as
    `mse_loss` was given outputs and targets of different sizes.

    Why it matters: torch broadcasts them: `[N, 1]` against `[N]` compares every output with every
    target. The loss goes down to that of the mean target and stays there.

    How it is measured: the library's own warning, which is heard whatever filters are set. Shapes
    whose broadcast is larger than both are a failure; others, a target for all outputs for one,
    are a warning.

    How to fix: `outputs.squeeze(-1)`, or targets of the outputs' shape.

    Bad::

        loss = mse_loss(outputs.logits, labels)  # [N, 1] and [N]

    Good::

        loss = mse_loss(outputs.logits.squeeze(-1), labels)

    Known false alarms: none known.

    References: read: torch.nn.functional.mse_loss.
    """
    del recording  # while it was made the warnings were heard
    matches = [match for one in pipeline.library_warnings if (match := SIZES.search(one.text))]
    found = [
        (target, given)
        for target, given in (map(_numbers, match.groups()) for match in matches)
        # One output and one target, of a row by itself, are one pair in any shape.
        if max(math.prod(target), math.prod(given)) > 1
    ]
    for target, given in found:
        size = math.prod(_broadcast(target, given))
        larger = size > max(math.prod(target), math.prod(given))
        yield Finding(
            f"the loss compares outputs of shape {given} with targets of shape {target}, which "
            f"torch broadcasts to {size:,} pairs",
            observed=target,
            expected=given,
            cause="the outputs have one dimension more than the targets"
            if len(given) > len(target)
            else "outputs and targets have different shapes",
            fix="squeeze the outputs, or give the targets the outputs' shape",
            severity=Severity.FAILURE if larger else Severity.WARNING,
        )
    yield Measured(
        f"torch warned {len(found)} times of several outputs and targets of different shapes",
        len(found),
        0,
    )


def _numbers(part: str) -> list[int]:
    return [int(n) for n in part.split(",") if n.strip()]


def _broadcast(one: list[int], other: list[int]) -> list[int]:
    width = max(len(one), len(other))
    pairs = zip([1] * (width - len(one)) + one, [1] * (width - len(other)) + other, strict=True)
    return [max(pair) for pair in pairs]
