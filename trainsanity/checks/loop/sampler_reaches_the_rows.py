"""TS925 loop.sampler_reaches_the_rows."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.reached import Reached
from trainsanity.types import Cost, Finding, Measured, Severity

TIMES = 10
"""How often each drawn row is drawn, on average, before so few rows are told. Chosen: classes that
are balanced by weights repeat the rows of rare ones, and draw as many others from frequent ones."""


@check(
    "TS925",
    "loop.sampler_reaches_the_rows",
    cost=Cost.STEP,
    needs=("trainer",),
    rules_out="a sampler of few rows",
)
def sampler_reaches_the_rows(reached: Reached) -> Iterator[Measured | Finding]:
    """The sampler has a weight for each row, and an epoch draws many different rows.

    What it checks: the number of weights of a weighted sampler against the number of rows; and how
    many different rows an epoch of the Trainer's own data loader draws.

    Why it matters: `WeightedRandomSampler` takes any list of weights. Given one for each class it
    draws the first rows of the data set, as many as there are classes, over and over; the loss of
    these few falls, and the rest is never seen.

    How it is measured: the number of weights exactly, which is a failure where it is another one.
    Of an epoch of less than 20,000 draws: that each drawn row is drawn ten times and more on
    average, while nine of ten are never drawn, is a warning. No row is read.

    How to fix: a weight for each row::

        # bad
        WeightedRandomSampler(1 / class_counts, num_samples=len(dataset))
        # good
        WeightedRandomSampler(1 / class_counts[labels], num_samples=len(dataset))

    Known false alarms: curricula that begin with a few rows on purpose.

    References: deep-voice/soundbay#49.
    """
    few = reached.whole and reached.distinct * TIMES <= min(reached.drawn, reached.rows)
    if reached.weights is not None and reached.weights != reached.rows:
        yield Finding(
            f"the sampler has {reached.weights:,} weights for {reached.rows:,} rows: an epoch "
            f"draws {reached.distinct:,} different rows",
            observed=reached.weights,
            expected=reached.rows,
            where=reached.sampler,
            cause="one weight a class was given, where the sampler wants one a row"
            if reached.weights < reached.rows
            else "the weights are those of other rows",
            fix="weights[labels]: the weight of each row's class",
        )
    elif few:
        yield Finding(
            f"{reached.drawn:,} rows are drawn, and only {reached.distinct:,} of {reached.rows:,} "
            "are among them",
            observed=reached.distinct,
            expected=f"more than {min(reached.drawn, reached.rows) // TIMES:,}",
            where=reached.sampler,
            cause="the sampler draws from a part of the rows, or the weights of most are next to 0",
            fix="give the sampler all rows, or weights of one size",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{reached.drawn:,} draws of an epoch have {reached.distinct:,} of {reached.rows:,} rows"
        + ("" if reached.weights is None else f", by {reached.weights:,} weights"),
        reached.distinct,
    )
