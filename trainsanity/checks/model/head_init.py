"""TS402 model.head_init."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.model._head import head_weight, planned_deviation, width_of_a_draw
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import STANDARD_ERRORS, within
from trainsanity.measurements.model.forward import Forward
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@check(
    "TS402",
    "model.head_init",
    cost=Cost.FORWARD,
    requires=("dataset.labels_in_range", "model.logits_finite"),
    rules_out="head initialisation",
)
def head_init(pipeline: Pipeline, forward: Forward) -> Iterator[Measured | Finding]:
    """Freshly initialised head weights have the configured scale.

    What it checks: that the head's scale does not make the first predictions worse than knowing
    nothing.

    Why it matters: logits with standard deviation s cost about s^2 / 2 nats above log C before
    anything is learnt, and the first thousand steps go into taking that back.

    How it is measured: the head's standard deviation against ``initializer_range`` (within
    6 / sqrt(2n) relative for n weights it counts as freshly drawn).  A wider head fails only if
    the reference loss of the first step's rows also lies above log C + s0^2 / 2, the loss of a
    head drawn as configured (s0 = initializer_range x the mean norm of what the head reads), by
    more than four standard errors of that mean.

    How to fix: draw it anew, ``model.score.weight.data.normal_(0, config.initializer_range)``, or
    find the line that rescales it.

    Known false alarms: a head taken over from a run on other labels is as wide, and its first loss
    as high; that is worth knowing, too.

    References: huggingface/transformers#46002, huggingface/transformers#28244.
    """
    weight = head_weight(pipeline, forward).double()
    where = f"{forward.head_name}.weight"
    std, planned = float(weight.std()), planned_deviation(pipeline)
    if forward.vectors is None:
        raise Skip("what the head reads was not found, so its scale cannot be judged")
    narrow = std <= planned * (1 + width_of_a_draw(weight.numel()))
    loss, healthy, error = (0.0, 0.0, 0.0) if narrow else _first_loss(forward, planned)
    if not within(loss, healthy + STANDARD_ERRORS * error):
        yield Finding(
            f"the head's standard deviation is {std:.4g}, initializer_range {planned:g}: "
            f"the first loss is {loss:.3f} where a head drawn as configured gives {healthy:.3f}",
            observed=std,
            expected=planned,
            where=where,
            factor=std / planned,
            cause="the head was scaled, drawn with another initialiser than the model's, or taken "
            "over from a run on other labels",
            fix="draw it anew: model.score.weight.data.normal_(0, config.initializer_range)",
            repairs=(repair(f"{where} drawn anew", "drawn_anew", names=(where,)),),
        )
    yield Measured(f"head std {std:.6f}, initializer_range {planned:g}", std, planned)


def _first_loss(forward: Forward, planned: float) -> tuple[float, float, float]:
    """Return the first loss, that of a head drawn as configured, and the first's standard error."""
    assert forward.vectors is not None
    healthy = (planned * float(forward.vectors.norm(dim=-1).mean())) ** 2 / 2
    classes = forward.logits.shape[1]
    loss = float(forward.losses.mean())
    return loss, math.log(classes) + healthy, _standard_error(forward.losses)


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else 0.0
