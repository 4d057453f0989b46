"""TS539 loss.rewards_read_columns."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS539",
    "loss.rewards_read_columns",
    cost=Cost.STEP,
    rules_out="columns of the rewards",
)
def rewards_read_columns(recording: Recording) -> Iterator[Measured | Finding]:
    """Reward functions read columns that the rows have.

    What it checks: each reward function that gave all of the first completions one reward: whether
    it reads a name that no row has, and its rewards differ as soon as an unused column comes under
    that name.

    Why it matters: a function that takes `**columns` and reads `answers` where the column is called
    `answer` gets nothing, and most give 0 then. Other rewards go on, there are advantages and a
    loss, the mean reward rises, and what was to be learnt has no part in it.

    How it is measured: exact. The names are the function's parameters and the words that stand in
    its code; each that is none of the columns is given every column that no reward function reads,
    for the same completions. One reward for all is no fault by itself: at the first step a model
    may have no right answer.

    How to fix: read the column by its name in the rows, and without a default::

        # bad
        def right(completions, **columns):
            return score(completions, columns.get("answers"))
        # good
        def right(completions, answer, **columns):
            return score(completions, answer)

    Known false alarms: none known.

    References: jsboige/CoursIA#10380.
    """
    order = recording.reward_order
    if order is None or not order.asked:
        raise Skip("no reward function could be asked again")
    for name, (read, column) in order.unread.items():
        yield Finding(
            f"{name} gives all of {order.completions} completions one reward: it reads {read!r}, "
            f"which no row has, and with the column {column!r} in its place the rewards differ",
            observed=read,
            expected=column,
            where=name,
            cause="the column has another name in the rows, and the function has a default for it",
            fix=f"read {column!r}, as a parameter without a default",
        )
    yield Measured(
        f"{len(order.unread)} of {len(order.asked)} reward functions read a name in vain that a "
        "column of the rows is meant by",
        len(order.unread),
        0,
    )
