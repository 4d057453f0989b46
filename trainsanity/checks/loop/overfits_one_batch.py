"""TS901 loop.overfits_one_batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.overfit import STEPS, Overfit
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS901",
    "loop.overfits_one_batch",
    cost=Cost.RUN,
    needs=("trainer",),
    requires=("gradient.finite", "update.optimizer_holds_trainable"),
    rules_out="learning",
)
def overfits_one_batch(overfit: Overfit) -> Iterator[Measured | Finding]:
    """The run can learn one batch by heart.

    What it checks: trained on one micro-batch again and again, by the user's own Trainer and
    optimizer, the model comes halfway from the best constant answer to knowing every item.

    Why it matters: it is the one test that all parts pass together.  An optimizer that climbs, an
    average that is written back over the weights, an input that never reaches the head: each part
    does as it was told, and nothing is learnt.

    How it is measured: whoever does not look at the input can do no better than the entropy of the
    batch's own labels (for numbers: the variance of the targets).  Whoever tells the items apart
    gets to zero: a linear head can as soon as its input vectors are linearly independent, so no
    more tokens count than it has inputs.  Asked is the middle between the two, of the reference
    loss.  The learning rate is not the run's, which may be a warm-up's: the optimizer steps once at
    a rate of 1, and the first-order fall of the loss says at which rate it would be zero after ten
    steps; from there it rises while the loss falls.  Clipping is off, and 60 steps are taken at the
    most.

    How to fix: look at the stages before; if they are green, at what writes to the weights besides
    the optimizer, and at the optimizer's own options.

    Known false alarms: a batch whose rows are alike and labelled differently; dropout so strong
    that a batch is not the same twice; fewer parameters trained than rows.

    References: Karpathy, "A Recipe for Training Neural Networks" (overfit one batch).
    """
    what = f"{overfit.items} {overfit.counts}"
    limit = f"the best constant answer has {overfit.constant:.3f}, asked is {overfit.target:.3f}"
    start = overfit.losses[0] if overfit.losses else float("nan")
    if not (overfit.best < overfit.target and math.isfinite(overfit.best)):
        yield Finding(
            f"one batch cannot be learnt: in {len(overfit.losses)} steps of {overfit.optimizer} "
            f"the loss of {what} goes from {start:.3f} to {overfit.best:.3f} at the best; {limit}",
            observed=overfit.best,
            expected=overfit.target,
            factor=overfit.best / overfit.target,
            where=f"{what} of the first step, at a first rate of {overfit.rate:.3g}",
            cause="the steps do not follow the gradient, are undone, or the input does not reach "
            "the head",
            fix="look for maximize=True, weights that are written back, a head that sees no input",
        )
    yield Measured(
        f"one batch of {what} is learnt from {start:.3f} to {overfit.best:.3f} in "
        f"{len(overfit.losses)} of at most {STEPS} steps of {overfit.optimizer}; {limit}",
        overfit.best,
        overfit.target,
    )
