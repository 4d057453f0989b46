"""TS201 dataset.labels_in_range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.batches.whose_loss import labels_reach_model
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.model.head import classes_of
from trainsanity.objectives.base import (
    IGNORED,
    require_single_label,
)
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS201",
    "dataset.labels_in_range",
    needs=("train_dataset",),
    requires=("dataset.labels_fit_task",),
    rules_out="labels",
    stops=True,
)
def labels_in_range(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Labels lie within the head's outputs.

    What it checks: the labels of all rows, for training and evaluation, against
    ``[0, num_labels)``; of a module without a config, the outputs of the layer that makes its
    logits.

    Why it matters: a label of -100 is silently dropped from the loss, so those rows teach nothing
    and the mean is taken over fewer; any other label outside the range stops the run on
    the CPU and is a device-side assert, or garbage, on a GPU.

    How it is measured: exact, on the integers of the label column.

    How to fix: map the labels to 0 .. num_labels - 1 (``ClassLabel`` does), or set ``num_labels``
    when the model is loaded; drop the rows that have no label.

    It is a warning where ``compute_loss`` is your own and does not hand the labels to the model:
    learning from rows without a label (consistency, pseudo-labels) marks them by -100 or -1 and
    leaves them out, and torch refuses a class that there is not.

    Known false alarms: rows marked -100 on purpose in a single-label task; drop them instead, the
    result is the same and the step is full.

    References: torch.nn.CrossEntropyLoss (``ignore_index=-100``).
    """
    require_single_label(objective_of(pipeline))
    size = classes_of(pipeline)
    if scan.train.labels is None:
        raise Skip("train_dataset has no label column: the collator makes the labels")
    for split in scan.splits:
        labels = split.labels
        for label, count in sorted(labels.counts.items()) if labels is not None else ():
            if labels is not None and not 0 <= label < size:
                yield rows_finding(
                    split,
                    count,
                    labels.first(label),
                    f"have the label {label}; the head has outputs 0 to {size - 1}",
                    observed=label,
                    expected=f"0 to {size - 1}",
                    cause="compute_loss is code of your own, which may leave these rows out"
                    if not labels_reach_model(pipeline)
                    else "-100 marks rows that the loss ignores"
                    if label == IGNORED
                    else "labels that do not start at 0, or a num_labels that is too small",
                    fix="map the labels to 0 .. num_labels - 1, and drop rows without a label",
                    severity=Severity.FAILURE if labels_reach_model(pipeline) else Severity.WARNING,
                )
    known = scan.train.labels.counts
    low, high, (most, largest) = min(known), max(known), next(iter(known.items()))
    seen = {"lowest": low, "highest": high, "distinct": len(known), "largest": largest}
    yield Measured(
        f"labels of {scan.train.counted} lie between {low} and {high}, {len(known)} different "
        f"ones, the most frequent ({most}) in {largest:,} rows; the head has outputs 0 to "
        f"{size - 1}",
        seen,
        {"lowest": 0, "highest": size - 1},
    )
