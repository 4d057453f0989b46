"""TS210 dataset.labels_vary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.fields import is_indexable
from trainsanity.measurements.batches.whose_loss import labels_reach_model
from trainsanity.measurements.data.scan import Scan
from trainsanity.objectives.base import MULTI_LABEL, SINGLE_LABEL
from trainsanity.objectives.preference import UNPAIRED_TRAINERS, of_classes
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_labels import Labels
    from trainsanity.pipeline import Pipeline


LEAST = 24
"""Rows of one label that are no accident: of answers of which three in four are liked, so many are
all liked once in a thousand times."""


BY_CHANCE = 1e6
"""Lengths of n runs are all multiples of k once in k ** n times by accident: in less than one of so
many datasets, which is chosen."""


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

    It is a failure where a head of several classes is trained on one of them by the model's own
    loss, from 24 rows on: nothing can come of it.  Else it is a warning, as the step itself is
    right, and a trial run on a few rows, or a loss of your own, may have one class on purpose.
    Two things are another matter, and a failure from 24 rows on.  Maps in which no pixel of all has
    another class: ``ToTensor()`` divides them by 255, and as integers they are 0.  And answers that
    were liked or not, as KTO and BCO of TRL take them: where all are liked, those that the model is
    to unlearn are taught.  ``bool("False")``, of labels that were read as text, is True.

    How it is measured: exact, on the label column.  Where labels are lists, by their lowest and
    highest value, and, of rows with several labels each, by how many rows after one another have
    the same list: blocks of one size throughout are a warning.

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
        yield _of_one_class(f"{only!r}", labels.column, scan, hopeless=_hopeless(pipeline, scan))
    elif len(scan.train.rows) > 1 and lowest is not None and lowest == highest:
        several = int(getattr(pipeline.config, "num_labels", 0) or 0) > 1
        enough = labels.kind == "integer" and len(scan.train.rows) >= LEAST
        maps = labels.is_map and enough and several
        hopeless = maps or (not labels.is_list and _hopeless(pipeline, scan))
        yield _of_one_class(f"{lowest:g}", labels.column, scan, hopeless=hopeless, maps=maps)
    elif objective_of(pipeline).of_rows and labels.runs:
        yield from _in_blocks(pipeline, labels, scan)
    yield Measured(
        f"labels of {scan.train.counted} lie between {lowest} and {highest}{different}",
        {"lowest": lowest, "highest": highest},
    )


def _hopeless(pipeline: Pipeline, scan: Scan) -> bool:
    """Return whether the model's own loss is to tell several classes apart by rows of one.

    Of a stream only the beginning is known.
    """
    return (
        objective_of(pipeline).name in (SINGLE_LABEL, MULTI_LABEL)
        and labels_reach_model(pipeline)
        and (getattr(pipeline.config, "num_labels", None) or 0) > 1
        and len(scan.train.rows) >= LEAST
        and is_indexable(pipeline.train_dataset)
    )


def _of_one_class(
    label: str, column: str, scan: Scan, *, hopeless: bool, maps: bool = False
) -> Finding:
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
        severity=Severity.FAILURE if hopeless else Severity.WARNING,
    )


def _in_blocks(pipeline: Pipeline, labels: Labels, scan: Scan) -> Iterator[Finding]:
    """Yield lists of labels that are the same in all rows, or in blocks of as many rows each."""
    runs, rows = labels.runs, len(scan.train.rows)
    if len(runs) == 1 and rows >= LEAST:
        yield _of_one_class(
            "the same list", labels.column, scan, hopeless=_hopeless(pipeline, scan)
        )
    size = math.gcd(*runs[:-1])
    # The last block may be shorter, and two that are alike by chance make a longer run.
    if len(runs) > 2 and size > 1 and len(runs) * math.log(size) > math.log(BY_CHANCE):
        yield Finding(
            f"labels of {scan.train.counted} in {scan.train.name} change at multiples of {size} "
            f"rows alone: {size} rows after one another have the same list, throughout",
            observed=size,
            expected="another list from row to row",
            where=f"column {labels.column!r} of {scan.train.name}",
            cause="a function for map(batched=True) writes into one list for all rows of its "
            "batch, as [[0.0] * n] * rows is; or as many rows were made of each text",
            fix="[[0.0] * n for _ in range(rows)], if these are rows of their own",
            severity=Severity.WARNING,
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
