"""TS447 model.rows_stay_apart."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.companions import Companions
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS447",
    "model.rows_stay_apart",
    cost=Cost.STEP,
    needs=("own_loop",),
    rules_out="neighbouring rows",
)
def rows_stay_apart(called_companions: Companions) -> Iterator[Measured | Finding]:
    """In a custom training loop the output for a row does not depend on the rows beside it.

    What it checks: the first output of the model for a few rows of the loop's first call of it,
    against its output for copies of that row in all places of the batch.

    Why it matters: a view that takes the batch for another axis puts parts of two rows together and
    hands them to a third. Every shape is right, and the loss falls as far as guessing gets it.

    How it is measured: the model is called again with the arguments of its first call, in eval mode
    and in float32 where that can be had, in one shape. Allowed is what arithmetic makes of a model
    of so many layers, as in model.rows_are_independent, which asks the batches of a Trainer. Not
    asked where an argument has no entry for each row in front, or another axis of that length; of a
    script's loop where a DataLoader says how many rows a batch has, and one model is trained.

    How to fix: bring the batch in front before a view::

        # bad: h_n is [directions, batch, size]
        h_n.view(batch, -1)
        # good
        h_n.transpose(0, 1).reshape(batch, -1)

    Known false alarms: models that compare the rows of a batch on purpose, by attention between
    rows.

    References: graykode/nlp-tutorial#38.
    """
    allowed = called_companions.allowed
    row, worst = called_companions.most_moved
    if not within(worst, allowed):
        yield Finding(
            f"row {row} of the first batch has another output with other rows beside it: greatest "
            f"difference {worst:.3g}, up to {allowed:.2g} allowed",
            observed=worst,
            expected=allowed,
            where=f"row {row} of the first micro-batch",
            cause="the model mixes rows: a view or reshape that takes the batch for another axis "
            "(h_n of an LSTM has it second), or a sum over the whole batch",
            fix="transpose before view, batch_first=True for recurrent layers, and reduce over "
            "positions only",
        )
    yield Measured(
        f"{len(called_companions.beside_copies)} rows beside copies of themselves: greatest "
        f"difference {worst:.2g}, up to {allowed:.2g} allowed{called_companions.precision}",
        worst,
        allowed,
    )
