"""TS312 collator.labels_from_dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.label_sources import LabelSources
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.data.label_sources import Unused
    from trainsanity.pipeline import Pipeline


@check(
    "TS312",
    "collator.labels_from_dataset",
    needs=("train_dataset", "data_collator"),
    rules_out="labels",
)
def labels_from_dataset(
    pipeline: Pipeline, label_sources: LabelSources
) -> Iterator[Measured | Finding]:
    """Labels of the batch come from the dataset.

    What it checks: where the collator is given no label column, the labels that it makes, against
    columns of the training data that look like labels.

    Why it matters: the Trainer removes columns that the model's ``forward`` does not name, and
    keeps ``label``, ``labels`` and ``label_ids``.  Labels under another name are gone before the
    collator is called; one that fills in a constant (``row.get("label", 0)``) hides that, and the
    loss falls nicely to 0.

    Constant labels are a failure.  It is a warning where the labels differ but follow no column
    that the collator was given, and where ``compute_loss`` is the user's own, which may not use
    them.

    How it is measured: a column looks like labels if it has one value a row, more than one and at
    most ``num_labels`` different ones, fewer than rows unless its name says what it is; if it is a
    ``ClassLabel``; or if it holds floats, for regression.  Up to 16 rows that differ in it are
    given to the collator, with the columns that reach it in training, and their labels are
    compared.  If the collator refuses them, the first step's labels count.

    How to fix: ``dataset.rename_column(name, "labels")``, or
    ``TrainingArguments(label_names=[name])``.

    Known false alarms: labels that are made of the ids on purpose, beside a column that happens to
    look like labels.

    References: huggingface/transformers#7823, Novetta/adaptnlp#87.
    """
    found = label_sources
    constant = found.count > 1 and found.different == 1
    unused = next((one for one in found.unused if _ignored(one, constant)), None)
    if unused is not None:
        given = "not given" if not unused.reaches else "given"
        yield Finding(
            f"column {unused.column!r} has {unused.different} different values, and rows that "
            f"differ in it all get the label {found.value}: the collator is {given} that column",
            observed=1,
            expected=unused.different,
            where=f"column {unused.column!r} of train_dataset",
            cause="the labels have a name that nobody passes on, and the collator fills in a "
            "constant",
            fix=f"dataset.rename_column({unused.column!r}, 'labels'), and no constant instead of a "
            "missing label",
            severity=Severity.WARNING if _own_loss(pipeline) else Severity.FAILURE,
        )
    elif objective_of(pipeline).of_rows and not constant:
        made_up = next((u for u in found.unused if u.declared and not u.reaches), None)
        if made_up is not None:
            yield Finding(
                f"column {made_up.column!r} looks like labels and does not reach the collator, "
                "which makes labels of its own",
                observed=found.different,
                expected=made_up.different,
                where=f"column {made_up.column!r} of train_dataset",
                cause="the labels have a name that nobody passes on",
                fix=f"dataset.rename_column({made_up.column!r}, 'labels'), or drop the column",
                severity=Severity.WARNING,
            )
    column = f"the label column {found.column!r}"
    if found.column is None:
        column = f"no label column, and {len(found.unused)} other columns look like labels"
    yield Measured(
        f"{found.count} labels of the first step have {found.different} different values; the "
        f"collator is given {column}",
        {"labels": found.count, "different": found.different},
    )


def _ignored(unused: Unused, constant: bool) -> bool:
    """Return whether rows that differ in the column have one label."""
    if unused.labels:
        return unused.labels == 1
    return constant and not unused.reaches


def _own_loss(pipeline: Pipeline) -> bool:
    from transformers import Trainer

    trainer = pipeline.trainer
    return trainer is not None and type(trainer).compute_loss is not Trainer.compute_loss
