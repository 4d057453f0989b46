"""TS264 dataset.no_column_is_the_class."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.told_targets import ToldTargets
from trainsanity.types import Finding, Measured


@check(
    "TS264",
    "dataset.no_column_is_the_class",
    needs=("train_dataset",),
    rules_out="classes among the inputs",
)
def no_column_is_the_class(told_targets: ToldTargets) -> Iterator[Measured | Finding]:
    """No column of a table is the class under another name.

    What it checks: whether one column of numbers tells the class of every training row.

    Why it matters: a table that kept the column which is to be foretold is learnt within minutes,
    and the score is perfect until rows come whose class nobody knows. Scaled with the others, the
    column looks like any of them.

    How it is measured: exact, on all rows of the training data. A column is the class where each of
    its values goes with one class and each class with one value. Where more than half of the
    columns are, the task itself is as plain as that, and it passes. dataset.inputs_hold_no_target
    asks about targets that are measured numbers.

    How to fix: take the target out before the rest becomes inputs::

        # bad
        features = table[table.columns]
        # good
        features = table.drop(columns=["leaves"])

    Known false alarms: a table in which one column is the class by its nature, as an exercise has
    it.

    References: https://zeupark.github.io/2025/05/26/overfitting-debug-log.html.
    """
    table = told_targets
    if table.told and 2 * len(table.told) <= table.columns:
        column = table.told[0]
        yield Finding(
            f"column {column} of the inputs tells which of {table.classes} classes each of "
            f"{table.rows:,} rows has: one value a class",
            observed=len(table.told),
            expected=0,
            where=f"column {column} of {table.split}",
            cause="the target's own column is among the inputs, scaled or renamed",
            fix="take the target out of the columns before they become inputs",
        )
    yield Measured(
        f"{len(table.told)} of {table.columns} columns tell the class of all {table.rows:,} rows",
        len(table.told),
        0,
    )
