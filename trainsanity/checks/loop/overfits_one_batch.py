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
    """The run can overfit one batch.

    What it checks: trained on one micro-batch again and again, by the user's own Trainer and
    optimizer, the model gets at least halfway from the loss of the best constant answer to zero.

    Why it matters: it tests all parts together.  With an optimizer that maximizes, an average that
    is written back over the weights, or an input that never reaches the head, every part works as
    written and nothing is learnt.

    How it is measured: without its input a model can do no better than the entropy of the batch's
    labels (for numbers: the variance of the targets).  A model that tells the items apart can reach
    zero: a linear head can do so if its input vectors are linearly independent, so no more tokens
    are counted than the head has inputs.  The reference loss has to fall below the middle between
    the two.  The learning rate is not the run's, which may be in its warm-up: the optimizer steps
    once at a rate of 1, the first-order fall of the loss gives the rate at which it would be zero
    after ten steps, and from there the rate rises while the loss falls.  Clipping is off, and at
    most 60 steps are taken.  Where that fails and the rate is so high that ten steps are longer
    than all weights together, as where the loss is flat at first, they are taken once more, from
    the lower rate on.

    How to fix: look at the earlier stages; if they are green, at code that writes to the weights
    besides the optimizer, and at the optimizer's own options.

    Skipped where virtual tokens alone are trained.

    Known false alarms: plain SGD, or a mean of its weights, on a model that first learns how often
    each class is; a batch whose rows are alike and labelled differently; dropout so strong
    that a batch is not the same twice; fewer parameters trained than rows.

    References: Karpathy, "A Recipe for Training Neural Networks" (overfit one batch).
    """
    what = f"{overfit.items} {overfit.counts}"
    limit = (
        f"the limit is {overfit.target:.3f}, half of what the best constant answer has "
        f"({overfit.constant:.3f})"
    )
    start = overfit.losses[0] if overfit.losses else float("nan")
    if not (overfit.best < overfit.target and math.isfinite(overfit.best)):
        yield Finding(
            f"the run does not overfit one batch: in {len(overfit.losses)} steps of "
            f"{overfit.optimizer} the loss of {what} starts at {start:.3f} and gets to "
            f"{overfit.best:.3f} at best; {limit}",
            observed=overfit.best,
            expected=overfit.target,
            factor=overfit.best / overfit.target,
            where=f"{what} of the first step, at a first rate of {overfit.rate:.3g}",
            cause="possibly steps that do not follow the gradient or are undone, or an input that "
            "does not reach the head",
            fix="look for maximize=True, weights that are written back, a head that sees no input",
        )
    yield Measured(
        f"the loss of one batch of {what} starts at {start:.3f} and gets to {overfit.best:.3f} in "
        f"{len(overfit.losses)} of at most {STEPS} steps of {overfit.optimizer}; {limit}",
        overfit.best,
        overfit.target,
    )
