"""TS202 dataset.labels_fit_task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session, objective_of
from trainsanity.engine.store import MeasurementError
from trainsanity.errors import UsageError
from trainsanity.fields import plain_values
from trainsanity.measurements.batches.whose_loss import labels_reach_model, own_loss
from trainsanity.measurements.data.scan import Scan
from trainsanity.objectives.base import (
    CAUSAL_LM,
    IGNORED,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TOKENS,
    UNKNOWN,
)
from trainsanity.objectives.preference import UNPAIRED_TRAINERS, of_classes
from trainsanity.types import Blocked, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split
    from trainsanity.measurements.data.scan_labels import Labels
    from trainsanity.pipeline import Pipeline


SHOWN = 40
"""Characters of a label that a finding quotes."""


@check("TS202", "dataset.labels_fit_task", needs=("train_dataset",), rules_out="labels", stops=True)
def labels_fit_task(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Labels have the type, number and range that the loss takes.

    What it checks: the label column of training and evaluation data: whole numbers, one a row, for
    single-label classification; ``num_labels`` targets between 0 and 1 for several labels; finite
    numbers for regression; one label a token, not all of them ignored, for token classification
    and language models; True and False, or 1 and 0, for answers that were liked or not (KTO).

    Why it matters: transformers guesses the loss from the labels' dtype where ``problem_type`` is
    not set: classes stored as floats are taken for several labels.  Binary cross entropy takes a
    -100 for a target and grows without bound; a row whose labels are all -100 teaches nothing.
    KTO takes every number but 0 for a liked answer, -1 and a rating of one star among them.

    How it is measured: exact, on the column's Arrow type and values.

    How to fix: cast the column (``dataset.cast_column("label", Value("int64"))``; for names of
    classes ``ClassLabel(names=...)``), set ``config.problem_type``, give each row as many labels as
    it has tokens.

    Labels that are missing, or not a number, are left to loss.finite where a loss of your own meets
    some in its first step: it may leave them out.

    It is a warning where ``compute_loss`` is your own and does not hand the labels to the model:
    what it leaves out by a mask never gets into the loss. The calls of its loss functions are
    judged by loss.functions_fit.

    Numbers of classes of which the collator makes a share for each class, as MixUp does, are judged
    as it makes them.

    Known false alarms: a collator that makes the labels anew from another column.

    References: read: transformers.loss.loss_utils, the sequence classification heads.
    """
    task = objective_of(pipeline).name
    theirs = labels_reach_model(pipeline)
    types = []
    for split in scan.splits:
        labels = split.labels
        if labels is None:
            continue
        types.append(f"{labels.type} in {split.name}")
        if _shares_are_made(pipeline, labels, task):
            continue
        if task == SINGLE_LABEL and (text := _first_text(labels)) is not None:
            yield _names_of_classes(pipeline, split, labels, text)
            continue
        for problem, places, expected in _misfits(pipeline, labels, task):
            more = f" ({len(places):,} rows do)" if len(places) > 1 else ""
            yield Finding(
                f"{split.row(int(places[0]))} has {problem} in column {labels.column!r}{more}; "
                f"{task} takes {expected}",
                observed=labels.type,
                expected=expected,
                where=split.row(int(places[0])),
                cause="compute_loss is code of your own, which may leave them out or read them "
                "otherwise; the model's own loss would not"
                if not theirs
                else "the labels' type decides the loss unless config.problem_type is set"
                if task == MULTI_LABEL and not labels.is_list
                else "the labels were made for another task, or by another rule",
                fix=f"give each row {expected}",
                severity=Severity.FAILURE if theirs or len(labels.nulls) else Severity.WARNING,
            )
    found = ", ".join(types) or "in no column, the collator makes them"
    yield Measured(f"labels for {task}: {found}", types)


def _shares_are_made(pipeline: Pipeline, labels: Labels, task: str) -> bool:
    """Return whether the collator makes a share for each class of the numbers of classes.

    As MixUp, CutMix and label smoothing do it: what the loss takes is the batch's, not the row's.
    """
    size = getattr(pipeline.config, "num_labels", None)
    if task != MULTI_LABEL or labels.is_list or labels.kind != "integer" or len(labels.nulls):
        return False
    if any(end is None or not 0 <= end[0] < (size or 0) for end in (labels.low, labels.high)):
        return False
    try:
        batch = Session.of(pipeline).measurements.get("batch")
    except (Skip, Blocked, MeasurementError):
        return False
    made = [micro.inputs.get("labels") for micro in batch]
    return bool(made) and all(
        getattr(one, "ndim", 0) == 2
        and one.shape[1] == size
        and one.is_floating_point()
        and bool(((one >= 0) & (one <= 1)).all())
        for one in made
    )


def _first_text(labels: Labels) -> str | None:
    """Return the first label if the column holds text."""
    values = () if labels.source is None else labels.source.drop_null()[:1].to_pylist()
    return next((value for value in values if isinstance(value, str)), None)


def _names_of_classes(pipeline: Pipeline, split: Split, labels: Labels, text: str) -> Finding:
    """Return the finding where classes are given by name."""
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    size = getattr(pipeline.config, "num_labels", None)
    numbers = f"0 to {size - 1}" if size else "whole numbers"
    return Finding(
        f"column {labels.column!r} of {split.name} holds text ({shown!r}); {SINGLE_LABEL} takes "
        "the numbers of the classes",
        observed=labels.type,
        expected=numbers,
        where=f"column {labels.column!r} of {split.name}",
        cause="the names of the classes were not mapped to their numbers",
        fix=f"map it to {numbers}: dataset.cast_column({labels.column!r}, "
        "ClassLabel(names=names)), with the names in the order of config.id2label",
    )


def _misfits(pipeline: Pipeline, labels: Labels, task: str) -> Iterator[tuple[str, Any, str]]:
    """Yield each problem, the places of the rows that have it, and what is expected."""
    size = getattr(pipeline.config, "num_labels", None)
    if len(labels.nulls) and not _left_out(pipeline, labels.column, task, _is_none):
        yield "no label", labels.nulls, "a label"
    if len(labels.not_finite) and not _left_out(pipeline, labels.column, task, _is_nan):
        yield "a label that is not finite", labels.not_finite, "finite numbers"
    if task in (TOKENS, CAUSAL_LM):
        yield from _misfits_of_tokens(pipeline, labels, task)
    elif of_classes(pipeline.trainer, UNPAIRED_TRAINERS) and not labels.is_list:
        odd = [value for value in labels.counts if value not in (False, True)]
        if odd:
            yield f"the label {odd[0]!r}", [labels.first(odd[0])], "True or False, or 1 or 0"
    elif task == MULTI_LABEL:
        expected = f"a list of {size} floats between 0 and 1"
        if not labels.is_list or labels.kind != "float":
            yield f"a {labels.type}", [0], expected
        elif labels.widths is not None and labels.widths != (size, size):
            fewest, most = labels.widths
            yield f"not the right number of targets ({fewest} to {most} are there)", [0], expected
        yield from _outside(labels, 0, 1, expected)
        if labels.first_ignored is not None:
            yield f"the target {IGNORED}", [labels.first_ignored], expected
    elif task == REGRESSION and labels.kind == "other":
        yield f"a {labels.type}", [0], "a number"
    elif task == SINGLE_LABEL and (labels.is_list or labels.kind != "integer"):
        yield f"a {labels.type}", [0], "one whole number"


def _left_out(pipeline: Pipeline, column: str, task: str, missing: Callable[[Any], bool]) -> bool:
    """Return whether a loss of the user's own meets missing labels in its very first step.

    It leaves them out, as where most properties were never measured or some rows are of another
    set; if it does not, loss.finite says so.  A few that lie further back are told here.
    """
    if task != UNKNOWN and not own_loss(pipeline):
        return False
    try:
        batch = Session.of(pipeline).measurements.get("batch")
    except (Skip, Blocked, MeasurementError, UsageError):  # others say it
        return False
    return any(missing(plain_values(row.get(column))) for row in batch.sources)


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and any(map(_is_none, value)))


def _is_nan(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_nan, value))
    return isinstance(value, float) and not math.isfinite(value)


def _misfits_of_tokens(
    pipeline: Pipeline, labels: Labels, task: str
) -> Iterator[tuple[str, Any, str]]:
    expected = "a list of whole numbers as long as input_ids, not all of them -100"
    if not labels.is_list or labels.kind != "integer":
        yield f"a {labels.type}", [0], expected
        return
    if len(labels.uneven):
        yield "another number of labels than tokens", labels.uneven, expected
    if len(labels.silent):
        yield "no label but -100", labels.silent, expected
    bound = "num_labels" if task == TOKENS else "vocab_size"
    size = getattr(pipeline.config, bound, None)
    if size is not None:
        yield from _outside(labels, 0, size - 1, f"labels from 0 to {size - 1}, or -100")


def _outside(labels: Labels, low: int, high: int, expected: str) -> Iterator[tuple[str, Any, str]]:
    for extreme in (labels.low, labels.high):
        if extreme is not None and not low <= extreme[0] <= high:
            yield f"the label {extreme[0]:g}", [extreme[1]], expected
