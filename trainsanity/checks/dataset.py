"""TS2: the labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..measurements.scan import Scan
from ..registry import check
from ..tasks import (
    CAUSAL_LM,
    IGNORED,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TOKENS,
    require_single_label,
)
from ..types import Finding, Seen, Skip

if TYPE_CHECKING:
    from ..measurements.scan_labels import Labels
    from ..pipeline import Pipeline


@check(
    "TS201",
    "dataset.labels_in_range",
    needs=("train_dataset",),
    requires=("dataset.labels_fit_task",),
    acquits="labels",
    stops=True,
)
def labels_in_range(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Every label names an output of the head.

    What it checks: the labels of all rows, for training and evaluation, against
    ``[0, num_labels)``.

    Why it matters: a label of -100 is dropped from the loss without a word, so those rows teach
    nothing and the mean is taken over fewer; any other label outside the range stops the run on
    the CPU and is a device-side assert, or garbage, on a GPU.

    How it is measured: exact, on the integers of the label column.

    How to fix: map the labels to 0 .. num_labels - 1 (``ClassLabel`` does), or set ``num_labels``
    when the model is loaded; drop the rows that have no label.

    Known false alarms: rows marked -100 on purpose in a single-label task; drop them instead, the
    result is the same and the step is full.

    References: torch.nn.CrossEntropyLoss (``ignore_index=-100``).
    """
    require_single_label(pipeline)
    size = pipeline.config.num_labels
    if scan.train.labels is None:
        raise Skip("train_dataset has no label column: the collator makes the labels")
    for split in scan.splits:
        labels = split.labels
        for label, count in sorted(labels.counts.items()) if labels is not None else ():
            if labels is not None and not 0 <= label < size:
                yield Finding(
                    f"{count:,} of {split.counted} in {split.name} have the label {label}; "
                    f"the head has outputs 0 to {size - 1}",
                    observed=label,
                    expected=f"0 to {size - 1}",
                    where=split.row(labels.first(label)),
                    cause="-100 marks rows that the loss ignores"
                    if label == IGNORED
                    else "labels that do not start at 0, or a num_labels that is too small",
                    fix="map the labels to 0 .. num_labels - 1, and drop rows without a label",
                )
    known = scan.train.labels.counts
    low, high, (most, largest) = min(known), max(known), next(iter(known.items()))
    seen = {"lowest": low, "highest": high, "distinct": len(known), "largest": largest}
    yield Seen(
        f"labels of {scan.train.counted} lie between {low} and {high}, {len(known)} of {size} "
        f"classes, the largest ({most}) with {largest:,} rows",
        seen,
        {"lowest": 0, "highest": size - 1},
    )


@check("TS202", "dataset.labels_fit_task", needs=("train_dataset",), acquits="labels", stops=True)
def labels_fit_task(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Labels have the type, the number and the range that the task's loss takes.

    What it checks: the label column of training and evaluation data: whole numbers, one a row, for
    single-label classification; ``num_labels`` targets between 0 and 1 for several labels; finite
    numbers for regression; one label a token, not all of them ignored, for token classification
    and language models.

    Why it matters: transformers guesses the loss from the labels' dtype where ``problem_type`` is
    not set: classes stored as floats are taken for several labels.  Binary cross entropy takes a
    -100 for a target and grows without bound; a row whose labels are all -100 teaches nothing.

    How it is measured: exact, on the column's Arrow type and values.

    How to fix: cast the column (``dataset.cast_column("label", Value("int64"))``), set
    ``config.problem_type``, give each row as many labels as it has tokens.

    Known false alarms: a collator that makes the labels anew from another column.

    References: read: transformers.loss.loss_utils, the sequence classification heads.
    """
    task = pipeline.task.name
    looked = []
    for split in scan.splits:
        labels = split.labels
        if labels is None:
            continue
        looked.append(f"{split.name}: {labels.type}")
        for problem, places, expected in _misfits(pipeline, labels, task):
            more = f" ({len(places):,} rows do)" if len(places) > 1 else ""
            yield Finding(
                f"{split.row(int(places[0]))} has {problem} in column {labels.column!r}{more}; "
                f"{task} takes {expected}",
                observed=labels.type,
                expected=expected,
                where=split.row(int(places[0])),
                cause="the labels' type decides the loss unless config.problem_type is set"
                if task == MULTI_LABEL and not labels.is_list
                else "the labels were made for another task, or by another rule",
                fix=f"give each row {expected}",
            )
    told = ", ".join(looked) or "no label column, the collator makes the labels"
    yield Seen(f"{task}: {told}", looked)


def _misfits(pipeline: Pipeline, labels: Labels, task: str) -> Iterator[tuple[str, Any, str]]:
    """What a row has, the places of such rows, and what it should have."""
    size = getattr(pipeline.config, "num_labels", None)
    if len(labels.nulls):
        yield "no label", labels.nulls, "a label"
    if len(labels.not_finite):
        yield "a label that is not finite", labels.not_finite, "finite numbers"
    if task in (TOKENS, CAUSAL_LM):
        yield from _misfits_of_tokens(pipeline, labels, task)
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


@check("TS203", "dataset.label_names_agree", needs=("train_dataset",), acquits="label names")
def label_names_agree(pipeline: Pipeline, scan: Scan) -> Iterator[Seen | Finding]:
    """Model and datasets have one list of label names.

    What it checks: that ``config.id2label`` and ``config.label2id`` are each other's inverse,
    and that the names of the ``ClassLabel`` columns of all datasets are the same as the model's, in
    the same order.

    Why it matters: ids are all that training sees.  With the names of another checkpoint, or of a
    split that was sorted otherwise, the loss looks normal and every prediction is reported under
    another name; evaluation on such a split measures nothing.

    How it is measured: exact comparison of names.  Names that transformers makes up (``LABEL_0``
    ...) say nothing and are compared with nothing.

    How to fix: ``from_pretrained(..., id2label=..., label2id=...)`` from
    ``dataset.features["label"].names``; build all splits with one ``ClassLabel``.

    Known false alarms: names in another spelling.

    References: read: PretrainedConfig.id2label.
    """
    config = pipeline.config
    by_id = {int(k): str(v) for k, v in (getattr(config, "id2label", None) or {}).items()}
    by_name = {str(k): int(v) for k, v in (getattr(config, "label2id", None) or {}).items()}
    own = [by_id[k] for k in sorted(by_id)]
    if {name: k for k, name in by_id.items()} != by_name:
        strange = next((n for k, n in sorted(by_id.items()) if by_name.get(n) != k), own[:1])
        yield Finding(
            f"config.label2id is not the inverse of config.id2label: {strange!r} differs",
            observed=len(by_name),
            expected=len(by_id),
            where="model.config.label2id",
            cause="one of the two was set, or two labels have the same name",
            fix="set both: id2label=dict(enumerate(names)), "
            "label2id={name: k for k, name in enumerate(names)}",
        )
    made_up = own == [f"LABEL_{k}" for k in range(len(own))]
    known = {} if made_up or not own else {"model.config": own}
    for split in scan.splits:
        if split.labels is not None and split.labels.names is not None:
            known[split.name] = split.labels.names
    (first, names), *others = [*known.items(), ("", None)]
    for place, theirs in others:
        if theirs is not None and theirs != names and names is not None:
            k = next(
                k
                for k in range(max(len(names), len(theirs)))
                if names[k : k + 1] != theirs[k : k + 1]
            )
            ours_k, theirs_k = (n[k] if k < len(n) else "none" for n in (names, theirs))
            yield Finding(
                f"label {k} is {ours_k!r} in {first} and {theirs_k!r} in {place}",
                observed=theirs_k,
                expected=ours_k,
                where=place,
                cause="the names come from another checkpoint, or the splits were encoded apart",
                fix="take id2label and label2id from the training data's ClassLabel, "
                "and cast every split to it",
            )
    told = " and ".join(known) or "no place names its labels"
    yield Seen(f"{len(names or own)} label names: {told}", list(known))
