"""TS210 dataset.labels_vary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_labels import Labels
    from trainsanity.pipeline import Pipeline


@check(
    "TS210",
    "dataset.labels_vary",
    needs=("train_dataset",),
    requires=("dataset.labels_fit_task", "dataset.labels_in_range"),
    rules_out="one class",
)
def labels_vary(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Training labels have more than one value.

    What it checks: the different values of the training data's label column, labels that the loss
    ignores aside.

    Why it matters: with one label there is nothing to tell apart.  The loss falls to 0 by the bias
    of the head alone, accuracy is 100 %, and the model answers the same to everything.  The usual
    causes are a filter, a slice of a file that is sorted by label, or a mapping that sends every
    name to one number.

    It is a warning: the step itself is right, and a trial run on a few rows may have one class on
    purpose.

    How it is measured: exact, on the label column.  Where labels are lists, by their lowest and
    highest value.

    How to fix: shuffle before slicing (``dataset.shuffle(seed=0).select(range(n))``), and look at
    the function that makes the labels.

    Known false alarms: a trial run on rows of one class; a stream that is sorted by label, of which
    only the beginning is read here.

    References: ultralytics/yolov5#3064.
    """
    if objective_of(pipeline).shifts:
        raise Skip("the labels of a language model are its tokens")
    labels = scan.train.labels
    if labels is None:
        raise Skip("train_dataset has no label column: the collator makes the labels")
    lowest, highest, different = _spread(labels)
    if len(scan.train.rows) > 1 and lowest is not None and lowest == highest:
        yield Finding(
            f"the labels of {scan.train.counted} in {scan.train.name} are all {lowest:g}: "
            "there is nothing to tell apart",
            observed=1,
            expected="2 or more",
            where=f"column {labels.column!r} of {scan.train.name}",
            cause="a slice of sorted rows, a filter, or a mapping that gives every row one label",
            fix="shuffle before slicing, and look at the function that makes the labels",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"labels of {scan.train.counted} lie between {lowest} and {highest}{different}",
        {"lowest": lowest, "highest": highest},
    )


def _spread(labels: Labels) -> tuple[float | None, float | None, str]:
    """Return the lowest and highest label, and how many there are where that is counted."""
    low, high = (None if one is None else one[0] for one in (labels.low, labels.high))
    return low, high, "" if labels.is_list else f", {len(labels.counts)} different ones"
