"""TS262 dataset.eval_classes_are_trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.scan import Scan
from trainsanity.objectives.base import IGNORED, SINGLE_LABEL
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split
    from trainsanity.pipeline import Pipeline

CHANCE = 1e-6
"""Probability below which a split by chance is ruled out: one of a million random splits."""


@check(
    "TS262",
    "dataset.eval_classes_are_trained",
    needs=("train_dataset",),
    requires=("dataset.labels_fit_task", "dataset.labels_in_range"),
    rules_out="classes that are never trained",
)
def eval_classes_are_trained(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Evaluation asks for classes that training rows have.

    What it checks: the classes of each evaluation set against those of the training data, where a
    head with one output a class is trained.

    Why it matters: a file that is sorted by class and split without shuffling leaves its last
    classes to the evaluation. The head learns to never say them, and the score is that of another
    question.

    How it is measured: exact, on the label columns, where a random split would leave a class of so
    many rows to one side less than once in a million times; rows of rare classes pass. A failure
    where more than half of an evaluation set's rows are of classes that no training row has; a
    warning where fewer are, and where the training data is a stream of which the beginning was
    read.

    How to fix: shuffle before splitting, by class where there are rare ones::

        # bad
        rows.train_test_split(test_size=0.2, shuffle=False)
        # good
        rows.train_test_split(test_size=0.2, stratify_by_column="label")

    Known false alarms: an evaluation set of new classes on purpose, to see what the model makes of
    the unknown.

    References: keras-team/keras#8346.
    """
    train = scan.train.labels
    if train is None or train.is_list or train.kind != "integer":
        raise Skip("train_dataset has no column of one class a row")
    held_out = [
        (split, split.labels.counts)
        for split in scan.evals
        if split.labels is not None and not split.labels.is_list and split.labels.kind == "integer"
    ]
    if not held_out:
        raise Skip("there is no evaluation data with one class a row")
    if objective_of(pipeline).name != SINGLE_LABEL:
        _require_a_head(pipeline, {*train.counts}.union(*(counts for _, counts in held_out)))
    unseen = []
    for split, counts in held_out:
        new = {label: n for label, n in counts.items() if label not in train.counts}
        new.pop(IGNORED, None)
        unseen.append(sum(new.values()))
        if new and not _by_chance(scan, split, new):
            yield _finding(scan, split, new)
    yield Measured(
        f"rows of classes beside the {len(train.counts)} of the training data: "
        + tally((split for split, _ in held_out), unseen),
        unseen,
        [0 for _ in unseen],
    )


def _finding(scan: Scan, split: Split, new: Mapping[int, int]) -> Finding:
    assert split.labels is not None
    labels, rows = sorted(new), sum(new.values())
    named = ", ".join(map(str, labels[:5])) + (" ..." if len(labels) > 5 else "")
    wrong = 2 * rows > len(split.rows) and not scan.train.rows.sample
    return rows_finding(
        split,
        rows,
        split.labels.first(labels[0]),
        f"have a class that no training row has: {named}",
        expected=0,
        cause="a file that is sorted by class was split without being shuffled",
        fix='shuffle before splitting, or train_test_split(..., stratify_by_column="label")',
        severity=Severity.FAILURE if wrong else Severity.WARNING,
    )


def _by_chance(scan: Scan, split: Split, new: Mapping[int, int]) -> bool:
    """Return whether rows drawn at random might leave one of the classes to evaluation alone."""
    assert split.labels is not None
    assert scan.train.labels is not None
    share = len(split.rows) / (len(split.rows) + len(scan.train.rows))
    classes = len({*split.labels.counts, *scan.train.labels.counts})
    return math.log(classes) + max(new.values()) * math.log(share) > math.log(CHANCE)


def _require_a_head(pipeline: Pipeline, labels: set[int]) -> None:
    """Raise Skip if the model has no layer with one output for each class.

    Labels of a model that learns distances only say what belongs together, and new ones are meant.
    """
    import torch

    size = max(labels) + 1
    linear = (m for m in pipeline.model.modules() if isinstance(m, torch.nn.Linear))
    if min(labels) < 0 or not any(m.out_features == size for m in linear):
        raise Skip("the model has no layer with one output for each class")
