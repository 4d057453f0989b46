"""TS2: the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.batch import Batch
from ..registry import check
from ..tasks import require_single_label
from ..types import Finding, Seen

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check("TS201", "dataset.labels_in_range", needs=("train_dataset",), acquits="labels")
def labels_in_range(pipeline: Pipeline, batch: Batch) -> Iterator[Seen | Finding]:
    """Every label names an output of the head.

    What it checks: the labels of the first optimizer step's rows against ``[0, num_labels)``.

    Why it matters: a label of -100 is dropped from the loss without a word, so those rows teach
    nothing and the mean is taken over fewer; any other label outside the range stops the run on
    the CPU and is a device-side assert, or garbage, on a GPU.

    How it is measured: exact, on the integers that the collator hands to the model.

    How to fix: map the labels to 0 .. num_labels - 1 (``ClassLabel`` does), or set ``num_labels``
    when the model is loaded; drop the rows that have no label.

    Known false alarms: rows marked -100 on purpose in a single-label task; drop them instead, the
    result is the same and the step is full.

    References: torch.nn.CrossEntropyLoss (``ignore_index=-100``).
    """
    require_single_label(pipeline)
    labels = [int(y) for micro in batch for y in micro.inputs["labels"].tolist()]
    size = pipeline.config.num_labels
    outside = Counter(y for y in labels if not 0 <= y < size)
    for label, count in sorted(outside.items()):
        yield Finding(
            f"{count} of {len(labels)} rows of the first step have the label {label}; "
            f"the head has outputs 0 to {size - 1}",
            observed=label,
            expected=f"0 to {size - 1}",
            where=f"row {labels.index(label)} of the first step",
            cause="-100 marks rows that the loss ignores"
            if label == -100
            else "labels that do not start at 0, or a num_labels that is too small",
            fix="map the labels to 0 .. num_labels - 1, and drop rows without a label",
        )
    seen = {"lowest": min(labels), "highest": max(labels), "distinct": len(set(labels))}
    yield Seen(
        f"{len(labels)} labels between {seen['lowest']} and {seen['highest']}, "
        f"{seen['distinct']} of {size} classes in the first step",
        seen,
        {"lowest": 0, "highest": size - 1},
    )
