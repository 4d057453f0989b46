"""TS509 loss.rows_in_any_order."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS509",
    "loss.rows_in_any_order",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="order of rows",
)
def rows_in_any_order(recording: Recording) -> Iterator[Measured | Finding]:
    """The loss of a batch does not depend on the order of its rows.

    What it checks: the loss of the first micro-batch against the loss of the same rows in another
    order, every tensor of the batch turned alike; and that a loss which draws random numbers does
    not set them back to the same value each time, by which each place of a batch has a noise of its
    own for good.

    Why it matters: a loss that reads a row beside another one's label, or the first row alone,
    trains on something that nobody meant, and looks like any other loss.

    How it is measured: the user's own compute_loss is asked twice, in training mode but with every
    layer in eval mode, so that dropout does not move it. Rows are turned in each half of the batch
    by a quarter of it, which keeps pairs together whether they lie side by side or in halves.
    Allowed are four units in the last place of the coarsest dtype in use and the order of float32
    sums, of the loss.  A loss of the user's own is asked from two random states, as that of two
    steps: where both leave the same state, a seed was set in between.

    How to fix: look for an index, a reshape or a view in compute_loss or in the collator that mixes
    rows.

    Known false alarms: a loss that weighs rows by their place on purpose.

    References: the symmetry of a mean over examples; huggingface/diffusers#175.
    """
    seen = recording.rearranged
    if seen.seeded:
        libraries = " and ".join(seen.seeded)
        yield Finding(
            f"the training step sets the random state of {libraries} to the same value each time: "
            "noise, dropout and sampling are the same in every step",
            observed=seen.seeded,
            expected=[],
            where="compute_loss" if math.isnan(seen.redrawn) else "train_step",
            cause="a seed is set inside the step; torch.manual_seed(...) returns torch's one "
            "generator and seeds it for everything",
            fix="set seeds once, before training; draw from a generator of its own, made once: "
            "torch.Generator().manual_seed(...)",
        )
    elif seen.reason or seen.drawn or math.isnan(seen.turned):
        raise Skip(
            seen.reason or seen.drawn or "the micro-batch has no 8 rows, or a multiple, to turn"
        )
    difference = abs(seen.turned - seen.loss)
    allowed = (MARGIN * seen.eps + REDUCTIONS) * max(abs(seen.loss), 1.0)
    if not seen.seeded and not within(difference, allowed):
        yield Finding(
            f"the same rows in another order have a loss of {seen.turned:.6g} and not "
            f"{seen.loss:.6g}: rounding explains up to {allowed:.2g}",
            observed=seen.turned,
            expected=seen.loss,
            where="compute_loss",
            cause="the loss pairs rows with other rows, or reads some of them alone",
            fix="look for an index, reshape or view that mixes rows",
        )
    yield Measured(
        f"loss {seen.loss:.6g}; {len(seen.seeded)} random states are set in the step"
        if seen.seeded
        else f"loss {seen.loss:.6g}, with the rows in another order {seen.turned:.6g}",
        seen.turned,
        seen.loss,
    )
