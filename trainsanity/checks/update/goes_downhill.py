"""TS712 update.goes_downhill."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS712",
    "update.goes_downhill",
    cost=Cost.STEP,
    requires=("update.survives_rounding",),
    rules_out="gradient ascent",
)
def goes_downhill(recording: Recording) -> Iterator[Measured | Finding]:
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

    How to fix: leave ``maximize`` at False, and give a positive rate; a loss that is to grow is
    given a minus sign::

        # bad
        optimizer = AdamW(model.parameters(), lr=1e-5, maximize=True)
        # good
        optimizer = AdamW(model.parameters(), lr=1e-5)

    Known false alarms: none known. Parameters of an adversary that climb on purpose hold less than
    half of the gradient.

    References: pytorch/pytorch#46480, pytorch/pytorch#3495.
    """
    trials = recording.update.trials
    if not trials:
        raise Skip(recording.update.no_trial)
    last = trials[-1]
    seen = [name for name, one in last.directions.items() if one.movement * one.gradient]
    if not seen:
        raise Skip("no parameter with a gradient moves")
    cosine, climbing = last.cosine(), last.climbing()
    if last.climbs() or math.isnan(cosine):
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
