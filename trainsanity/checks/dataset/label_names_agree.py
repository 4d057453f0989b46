"""TS203 dataset.label_names_agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_content import innermost
from trainsanity.objectives.base import IGNORED, SINGLE_LABEL
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split
    from trainsanity.measurements.data.scan_labels import Labels
    from trainsanity.pipeline import Pipeline

VOID = 255
"""The label that image processors give pixels that nobody labelled."""


@check("TS203", "dataset.label_names_agree", needs=("train_dataset",), rules_out="label names")
def label_names_agree(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Model and datasets use the same label names.

    What it checks: that ``config.id2label`` and ``config.label2id`` are each other's inverse,
    and that the names of the ``ClassLabel`` columns of all datasets are the same as the model's, in
    the same order.  And that numbers of classes begin where the names do: where names were given,
    integers of the label column that go from 1 to their number, and are never 0.

    Why it matters: ids are all that training sees.  With the names of another checkpoint, or of a
    split that was sorted otherwise, the loss looks normal and every prediction is reported under
    another name; evaluation on such a split measures nothing.  Categories of COCO begin at 1: for a
    detector whose last output means "no object", things of the last class are taught to be nothing.

    How it is measured: exact comparison of names.  Names that transformers makes up (``LABEL_0``
    ...) say nothing and are compared with nothing; where only one of the two tables has them,
    predictions lose their names and no name is wrong: a warning, as where one of them is absent
    (transformers 5 leaves ``label2id`` at None where ``id2label`` alone is given).

    How to fix: ``from_pretrained(..., id2label=..., label2id=...)`` from
    ``dataset.features["label"].names``; build all splits with one ``ClassLabel``.

    Known false alarms: names in another spelling.

    References: read: PretrainedConfig.id2label; facebookresearch/detr#108.
    """
    config = pipeline.config
    by_id = {int(k): str(v) for k, v in (getattr(config, "id2label", None) or {}).items()}
    by_name = {str(k): int(v) for k, v in (getattr(config, "label2id", None) or {}).items()}
    own = [by_id[k] for k in sorted(by_id)]
    named = sorted(by_name, key=by_name.__getitem__)
    # One of the two was left as it was made up: it names nothing, and contradicts nothing.
    unnamed = sorted(by_name.values()) == [*range(len(own))] and (_made_up(own) or _made_up(named))
    if bool(own) != bool(named) and not _made_up(own or named):
        yield _one_table(own, named)
    elif unnamed and own != named:
        place, other = ("id2label", named) if _made_up(own) else ("label2id", own)
        if other != [str(k) for k in range(len(other))]:
            yield Finding(
                f"config.{place} has LABEL_0, LABEL_1, ... where the other table has "
                f"{', '.join(map(repr, other[:3]))}",
                observed="LABEL_0",
                expected=other[0],
                where=f"model.config.{place}",
                cause="only one of the two was set: predictions are reported without their names"
                if place == "id2label"
                else "only one of the two was set: names are not found by it",
                fix="set both: id2label=dict(enumerate(names)), "
                "label2id={name: k for k, name in enumerate(names)}",
                severity=Severity.WARNING,
                repairs=(repair("both tables have the names", "label_names", names=(*other,)),),
            )
    elif {name: k for k, name in by_id.items()} != by_name:
        strange = next((n for k, n in sorted(by_id.items()) if by_name.get(n) != k), own[:1])
        yield Finding(
            f"config.label2id is not the inverse of config.id2label: {strange!r} differs",
            observed=len(by_name),
            expected=len(by_id),
            where="model.config.label2id",
            cause="one of the two was set, or two labels have the same name",
            fix="set both: id2label=dict(enumerate(names)), "
            "label2id={name: k for k, name in enumerate(names)}",
            repairs=(repair("label2id = the inverse of id2label", "label_names", names=(*own,)),),
        )
    known = {} if _made_up(own) or not own else {"model.config": own}
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
                repairs=(repair(f"the names of {place}", "label_names", names=(*theirs,)),)
                if first == "model.config"
                else (),
            )
    if own and not _made_up(own) and objective_of(pipeline).name != SINGLE_LABEL:
        # labels_in_range judges those of single-label tasks
        yield from _from_one(scan.train, len(own))
    places = ", ".join(known) or "no place"
    yield Measured(f"{len(names or own)} labels, named by {places}", list(known))


def _from_one(split: Split, size: int) -> Iterator[Finding]:
    """Yield a finding if the numbers of classes are 1 to their number, and 0 never occurs."""
    labels = split.labels
    if labels is None or labels.kind != "integer" or size < 2:
        return
    if labels.high is None or labels.high[0] < size:
        return
    used = _used(split, labels) - {IGNORED, VOID}
    if max(used, default=0) == size and 0 not in used:
        yield Finding(
            f"the labels of {split.name} are numbered from 1 to {size}, and none is 0; the model's "
            f"classes are 0 to {size - 1}: label {size} is no class of it",
            observed=size,
            expected=size - 1,
            where=split.row(labels.high[1]),
            cause="categories are numbered from 1, as COCO does; the output after the last class "
            'often means "no object" or background',
            fix="take 1 from each label, or number the names of the classes from 0",
        )


def _used(split: Split, labels: Labels) -> set[int]:
    """Return the labels of all rows, of lists of them as well, without negative ones."""
    import numpy

    if labels.counts:
        return {int(one) for one in labels.counts if isinstance(one, int) and one >= 0}
    found: set[int] = set()
    for _, batch in split.rows.blocks([labels.column]):
        values = innermost(batch.column(labels.column), f"{labels.column} of {split.name}").values
        found |= {int(one) for one in numpy.unique(values) if one >= 0}
    return found


def _one_table(own: list[str], named: list[str]) -> Finding:
    """Return the warning that one of the two tables is absent."""
    there, absent = ("id2label", "label2id") if own else ("label2id", "id2label")
    return Finding(
        f"config.{there} has {len(own or named)} names, and config.{absent} has none",
        observed=0,
        expected=len(own or named),
        where=f"model.config.{absent}",
        cause="only one of the two was set: "
        + ("ids are not found by a name" if own else "predictions are reported without names"),
        fix="set both: id2label=dict(enumerate(names)), "
        "label2id={name: k for k, name in enumerate(names)}",
        severity=Severity.WARNING,
        repairs=(repair("both tables have the names", "label_names", names=(*(own or named),)),),
    )


def _made_up(names: list[str]) -> bool:
    """Return whether these are the names that transformers gives by itself."""
    return names == [f"LABEL_{k}" for k in range(len(names))]
