"""TS916 loop.rows_are_mixed."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.order import Order
from trainsanity.types import Cost, Finding, Measured, Severity

SORTED = 0.2
"""Share of the changes of class in a random order; with fewer, rows lie by class.  With ten changes
expected, chance gives so few less than once in a thousand times."""

ENOUGH = 10
"""Changes that have to be expected before few of them mean anything."""


@check(
    "TS916",
    "loop.rows_are_mixed",
    cost=Cost.STATIC,
    needs=("trainer", "train_dataset"),
    rules_out="order of the rows",
)
def rows_are_mixed(order: Order) -> Iterator[Measured | Finding]:
    """Rows are read in a mixed order, and a stream in another one each epoch.

    What it checks: how often the class changes from one row to the next in the order in which the
    Trainer's own loader reads them; and, for a stream that the run reads more than once, whether
    its second epoch has the order of the first.

    Why it matters: in rows that are sorted by class each batch has one class, and the model
    learns to answer with the class of the last batches.  In an order that is the same each time
    every row meets the same neighbours.

    How it is measured: the loader's sampler is read for the first 512 rows, and the column of
    labels says how often a random order would change the class; fewer than a fifth of that is a
    failure.  A stream is read twice, with ``set_epoch`` in between as in training.  If the order is
    the same, objects that the stream refers to are looked through for a shuffled stream that was
    not told its epoch: that is a failure; a stream that nobody shuffles is a warning.

    How to fix: shuffle, and let the stream hear of the epoch::

        # bad: a generator hides set_epoch from the Trainer
        stream = IterableDataset.from_generator(lambda: iter(shuffled))
        # good
        stream = shuffled

        # bad: rows sorted by class
        TrainingArguments(train_sampling_strategy="sequential")
        # good
        TrainingArguments(train_sampling_strategy="random")

    Known false alarms: a curriculum by class on purpose.

    References: huggingface/trl#6351, Deci-AI/super-gradients#416, modelscope/ms-swift#9902;
    ``datasets.IterableDataset.set_epoch``.
    """
    few = order.changes < SORTED * order.expected_changes
    if order.expected_changes >= ENOUGH and few:
        yield Finding(
            f"the class changes {order.changes} times in the first {order.rows} rows, and in a "
            f"random order it would {order.expected_changes:.0f} times: rows are sorted by class "
            "and read in that order, so that a batch has one class",
            observed=order.changes,
            expected=round(order.expected_changes),
            where=order.sampler,
            cause="the data is sorted and the sampler does not shuffle",
            fix='train_sampling_strategy="random", or shuffle the dataset once',
        )
    if order.stream and order.repeats and order.rows > 1 and order.equal == order.rows:
        yield Finding(
            f"a second epoch of the stream has its {order.rows} rows in the same order as the "
            "first"
            + (
                f": a shuffled {order.untold} is read inside it, which set_epoch does not reach"
                if order.untold
                else ", and the run reads it more than once"
            ),
            observed=order.equal,
            expected="another order each epoch",
            where=order.sampler,
            cause="a generator hides set_epoch of the stream that it reads"
            if order.untold
            else "the stream is not shuffled, or by a seed that is the same each epoch",
            fix="give the Trainer the shuffled stream itself, or pass set_epoch on"
            if order.untold
            else "stream.shuffle(seed=..., buffer_size=...)",
            severity=Severity.FAILURE if order.untold else Severity.WARNING,
        )
    what, expected = order.changes, round(order.expected_changes)
    message = (
        f"the class changes {order.changes} times in the first {order.rows} rows, in a random "
        f"order {order.expected_changes:.0f} times"
    )
    if order.stream:
        what, expected = order.equal, 0
        message = (
            f"{order.equal} of {order.rows} rows of a stream come at the same place in a second "
            "epoch"
        )
    yield Measured(message, what, expected)
