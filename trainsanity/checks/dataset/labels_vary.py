"""TS210 dataset.labels_vary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.scan import Scan
from trainsanity.objectives.preference import UNPAIRED_TRAINERS, of_classes
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_labels import Labels
    from trainsanity.pipeline import Pipeline


LEAST = 24
"""Rows of one label that are no accident: of answers of which three in four are liked, so many are
all liked once in a thousand times."""


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
    purpose.  Two things are another matter, and a failure from 24 rows on.  Maps in which no pixel
    of all has another class: ``ToTensor()`` divides them by 255, and as integers they are 0.  And
    answers that were liked or not, as KTO and BCO of TRL take them: where all are liked, those that
    the model is to unlearn are taught.  It happens where the labels were read as text:
    ``bool("False")`` is True.

    How it is measured: exact, on the label column.  Where labels are lists, by their lowest and
    highest value.

    How to fix: shuffle before slicing (``dataset.shuffle(seed=0).select(range(n))``), and look at
    the function that makes the labels::

        # bad
        row["label"] = bool(row["label"])
        # good
        row["label"] = row["label"] == "True"

    Known false alarms: a trial run on rows of one class; a stream that is sorted by label, of which
    only the beginning is read here.

    References: ultralytics/yolov5#3064, huggingface/trl#1724, unslothai/unsloth-zoo#912,
    milesial/Pytorch-UNet#228.
    """
    if objective_of(pipeline).shifts:
        raise Skip("the labels of a language model are its tokens")
    labels = scan.train.labels
    if labels is None:
        raise Skip("train_dataset has no label column: the collator makes the labels")
    lowest, highest, different = _spread(labels)
    only = next(iter(labels.counts)) if len(labels.counts) == 1 and lowest is None else None
    if of_classes(pipeline.trainer, UNPAIRED_TRAINERS) and len(labels.counts) == 1:
        yield _one_sided(next(iter(labels.counts)), labels.column, scan)
    elif len(scan.train.rows) > 1 and only is not None and not labels.is_list:
        yield _of_one_class(f"{only!r}", labels.column, scan)
    elif len(scan.train.rows) > 1 and lowest is not None and lowest == highest:
        maps = labels.is_map and labels.kind == "integer" and len(scan.train.rows) >= LEAST
        several = int(getattr(pipeline.config, "num_labels", 0) or 0) > 1
        yield _of_one_class(f"{lowest:g}", labels.column, scan, maps=maps and several)
    yield Measured(
        f"labels of {scan.train.counted} lie between {lowest} and {highest}{different}",
        {"lowest": lowest, "highest": highest},
    )


def _of_one_class(label: str, column: str, scan: Scan, *, maps: bool = False) -> Finding:
    """Return the finding where all labels are one; of whole maps that is no trial run."""
    return Finding(
        f"the labels of {scan.train.counted} in {scan.train.name} are all {label}: "
        "there is nothing to tell apart",
        observed=1,
        expected="2 or more",
        where=f"column {column!r} of {scan.train.name}",
        cause="maps went through a transform of pictures, which divides by 255: their classes are "
        "all 0 as integers"
        if maps and label == "0"
        else "a slice of sorted rows, a filter, or a mapping that gives every row one label",
        fix="torch.as_tensor(numpy.array(map)).long() in place of ToTensor()"
        if maps and label == "0"
        else "shuffle before slicing, and look at the function that makes the labels",
        severity=Severity.FAILURE if maps else Severity.WARNING,
    )


def _one_sided(label: Any, column: str, scan: Scan) -> Finding:
    """Return the finding where all answers were liked, or none was."""
    liked = bool(label)
    return Finding(
        f"all {scan.train.counted} of {scan.train.name} have the label {label!r}: each answer is "
        + ("desirable, and none is unlearnt" if liked else "undesirable, and none is learnt"),
        observed=1,
        expected=2,
        where=f"column {column!r} of {scan.train.name}",
        cause='labels that were read as text are all True: bool("False") is True'
        if liked
        else "a filter, or a comparison that no row passes, gives every row one label",
        fix='compare the text: row["label"] == "True"; and look at the rows of both kinds',
        severity=Severity.FAILURE if len(scan.train.rows) >= LEAST else Severity.WARNING,
    )


def _spread(labels: Labels) -> tuple[float | None, float | None, str]:
    """Return the lowest and highest label, and how many there are where that is counted."""
    low, high = (None if one is None else one[0] for one in (labels.low, labels.high))
    return low, high, "" if labels.is_list else f", {len(labels.counts)} different ones"
