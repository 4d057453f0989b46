"""TS255 dataset.inputs_hold_no_target."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.data.told_targets import ToldTargets
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""Names under which a batch has its targets."""

ENOUGH = 4
"""Different targets from which on it is no chance that one place holds them all: of numbers with
two digits, one in a hundred million."""


@check(
    "TS255",
    "dataset.inputs_hold_no_target",
    rules_out="targets among the inputs",
)
def inputs_hold_no_target(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """No place of the inputs is the target itself, in every row.

    What it checks: a target that is one number a row against each number of what the model's
    forward takes of the row, by its place from the front and from the end. In a table also whether
    one column alone tells every row's class, or is the target on another scale.

    Why it matters: a window that ends with the value it is to foretell, or a table that kept the
    column of its target, is learnt within minutes and says nothing of what is to come. The error is
    wonderfully small until the model meets rows whose target nobody knows.

    How it is measured: exact, on the batches of the first optimizer step. A failure where one
    place of the inputs equals the target in every row, and the rows have four different targets or
    more, which are no whole numbers all (classes, stars and counts recur). Of a table all rows are
    read: a column tells the classes where each of its values goes with one class and each class
    with one value, and a number where a straight line leads from it to the target, within what
    float32 rounds. Where more than half of the columns do, the task itself is as plain as that, and
    it passes.

    How to fix: look at one row; a window's target is the value after its last::

        # bad
        x, y = series[i : i + n], series[i + n - 1]
        # good
        x, y = series[i : i + n], series[i + n]
        # bad
        x = table[table.columns]
        # good
        x = table.drop(columns=["target"])

    Known false alarms: a model that is to copy a number, as exercises have it.

    References: tensorflow/tensorflow#40343,
    https://zeupark.github.io/2025/05/26/overfitting-debug-log.html.
    """
    table = _table(pipeline)
    if table is not None and (finding := _column(table)):
        yield finding
        compared, held = table.rows, len(table.told)
    else:
        try:
            compared, places = _places(pipeline, batch)
        except Skip:
            if table is None:
                raise
            compared, places = table.rows, []
        held = len(places)
        if places:
            key, place = places[0]
            yield Finding(
                f"the target of each of {compared} rows is a number of its inputs: {key}[{place}]",
                observed=held,
                expected=0,
                where=f"{key}[{place}]",
                cause="the window ends with its target, or the target's column is among the inputs",
                fix="take the target from behind the window, and its column out of the inputs",
            )
    yield Measured(
        f"{compared:,} targets were compared with each number of their rows; {held} places of a "
        "row are the target, or tell it",
        held,
        0,
    )


def _table(pipeline: Pipeline) -> ToldTargets | None:
    """Return what the columns of the training data tell; None where it is no table."""
    try:
        found: ToldTargets = Session.of(pipeline).measurements.get("told_targets")
    except Skip:
        return None
    return found


def _column(table: ToldTargets) -> Finding | None:
    """Return the finding that a column gives the target away."""
    if not table.told or 2 * len(table.told) > table.columns or table.columns < 2:
        return None
    column = table.told[0]
    what = f"which of {table.classes} classes" if table.classes else "which number"
    return Finding(
        f"column {column} of the inputs tells the target of each of {table.rows:,} rows: {what} "
        "it is follows from this column alone",
        observed=len(table.told),
        expected=0,
        where=f"column {column} of {table.split}",
        cause="the target's own column is among the inputs, as it is or on another scale, or a "
        "window ends with its target",
        fix="take the target out of the columns before they become inputs, or from behind the "
        "window",
    )


def _places(pipeline: Pipeline, batch: Batch) -> tuple[int, list[tuple[str, int]]]:
    """Return how many targets the first step has, and which places of its inputs are all of them.

    Raises:
        Skip: there is no Trainer, the targets are no fractions of one a row, or few.
    """
    import torch

    if pipeline.trainer is None:
        raise Skip("this pipeline has no trainer")

    # A column that nobody reads may be the target's own.
    taken = inspect.signature(unwrapped(pipeline.model).forward).parameters
    places: dict[tuple[str, int], int] = {}
    targets: list[float] = []
    for micro in batch:
        name = next((name for name in TARGETS if name in micro.inputs), None)
        target = micro.inputs.get(name or "")
        if not torch.is_tensor(target) or not target.is_floating_point() or not len(target):
            raise Skip("the targets are no fractions")
        target = target.reshape(len(target), -1)
        if target.shape[1] != 1:
            raise Skip("a row has several targets")
        targets += target[:, 0].tolist()
        for key, value in micro.inputs.items():
            if (
                key != name
                and key in taken
                and torch.is_tensor(value)
                and value.is_floating_point()
            ):
                for place in _equal(value, target):
                    places[key, place] = places.get((key, place), 0) + 1
    if len(set(targets)) < ENOUGH or all(one == int(one) for one in targets):
        raise Skip(f"the first step has fewer than {ENOUGH} different targets, or whole numbers")
    return len(targets), [
        where for where, count in places.items() if count == len(batch.micro_batches)
    ]


def _equal(value: Tensor, target: Tensor) -> Iterator[int]:
    """Yield places, counted from the end of a row too (below 0), that equal all targets."""
    if value.dim() == 0 or len(value) != len(target):
        return
    flat: Any = value.reshape(len(value), -1).to(target)
    same = (flat == target).all(0).nonzero().flatten().tolist()
    width = flat.shape[1]
    for place in same:
        yield place
        yield place - width
