"""TS712 update.goes_downhill."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.beside_optimizer import Moved
from trainsanity.measurements.step.directions import Trial
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

ALONG = 0.5
"""Cosine of a movement and the gradient: an attack along one batch's gradient has 0.7 and more to
the sum of it and its own; what has nothing to do with the gradient is near 0 in thousands of
dimensions. A last resort."""


@check(
    "TS712",
    "update.goes_downhill",
    cost=Cost.STEP,
    requires=("update.survives_rounding",),
    rules_out="gradient ascent",
)
def goes_downhill(recording: Recording, beside_optimizer: Moved) -> Iterator[Measured | Finding]:
    """A step of the optimizer lowers the loss, to first order.

    What it checks: the sum over all weights of movement times gradient, in a step of the user's own
    optimizer at the peak rate. It is what the step adds to the loss to first order, and is negative
    for every optimizer that descends.

    Why it matters: ``maximize=True``, a negative learning rate or a loss whose sign was turned in
    the optimizer climbs: nothing crashes, and the loss grows.

    How it is measured: by the trial step of update.survives_rounding, over a sample of each tensor.
    The slope that weight decay makes by itself is taken off. A failure if what is left is positive
    and the tensors that climb hold more than half of the squared gradient. Momentum that an earlier
    batch left behind may do that by chance: where the step climbs it is taken once more as the
    optimizer's first, with no state.

    A custom training loop is run once more with an optimizer whose rates are 0: what moves then is
    moved by the loop itself.  A failure where that goes along the gradient, as an attack on the
    embeddings that is not undone; anything else (a running mean, a limit on the weights) is the
    loop's own affair.

    How to fix: leave ``maximize`` at False, and give a positive rate; a loss that is to grow is
    given a minus sign::

        # bad
        optimizer = AdamW(model.parameters(), lr=1e-5, maximize=True)
        # good
        optimizer = AdamW(model.parameters(), lr=1e-5)

    Known false alarms: none known. Parameters of an adversary that climb on purpose hold less than
    half of the gradient.

    References: pytorch/pytorch#46480, pytorch/pytorch#3495, PaddlePaddle/PaddleNLP#723.
    """
    trials, uphill = recording.update.trials, beside_optimizer.cosine > ALONG
    if uphill:
        yield _uphill(beside_optimizer)
    if not trials and not uphill:
        raise Skip(recording.update.no_trial)
    last = trials[-1] if trials else Trial(None, 0.0, {})
    seen = [name for name, one in last.directions.items() if one.movement * one.gradient]
    if not seen and not uphill:
        raise Skip("no parameter with a gradient moves")
    cosine, climbing = last.cosine(), last.climbing()
    if seen and (last.climbs() or math.isnan(cosine)):
        yield Finding(
            f"a step at {recording.update.rate:g} moves {len(climbing)} of {len(seen)} parameters "
            f"along their gradient: it raises the loss (cosine {cosine:.3f})",
            observed=cosine,
            expected="below 0",
            where=", ".join(climbing[:3]),
            cause="the optimizer maximises, or its learning rate is negative",
            fix="maximize=False and a positive learning rate",
        )
    yield Measured(
        f"movement and gradient of {len(seen)} parameters have a cosine of {cosine:.3f}",
        cosine,
        "below 0",
    )


def _uphill(moved: Moved) -> Finding:
    return Finding(
        f"train_step moves {len(moved.names)} parameters by {moved.size:.3g} besides its "
        f"optimizer's step, along their gradient (cosine {moved.cosine:.3f}): each step leaves "
        "them further uphill",
        observed=moved.cosine,
        expected=0,
        where=", ".join(moved.names[:3]),
        cause="an attack on the weights (FGM, SAM) is not put back: what was kept is the tensor "
        "that was attacked, or restoring looks for another name",
        fix="keep param.data.clone(), and put it back before optimizer.step()",
    )
