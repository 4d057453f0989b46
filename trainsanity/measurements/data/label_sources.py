"""Where a batch's labels come from, and columns that look like labels and are not used."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.measurements.batches.drawn import listed
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.objectives.base import IGNORED, REGRESSION
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.objectives.base import Objective
    from trainsanity.pipeline import Pipeline

NAMES = ("answer", "category", "class", "emotion", "gold", "grade", "intent", "label", "rating",
         "score", "sentiment", "stance", "stars", "target", "tag", "topic")  # fmt: skip
"""Words in the names of columns that hold labels.  Chosen: without a type that says so, the name
is all there is to go by."""

PROBES = 16
"""Rows that are collated to see whether labels follow a column."""


@dataclass(frozen=True)
class Unused:
    """A column that looks like labels, and what the collator makes of rows that differ in it.

    Attributes:
        column: its name.
        different: how many different values it has.
        declared: whether its type or its name says that it holds labels.
        reaches: whether the collator is given it.
        labels: different labels of rows that differ in this column; 0 if the collator takes no
            such rows.
    """

    column: str
    different: int
    declared: bool
    reaches: bool
    labels: int


@dataclass(frozen=True)
class LabelSources:
    """The first step's labels.

    Attributes:
        count: labels that the loss counts.
        different: how many of them are different.
        value: the first, as text.
        column: the label column that the collator is given, or None.
        unused: columns that look like labels, where there is no such column.
    """

    count: int
    different: int
    value: str = ""
    column: str | None = None
    unused: tuple[Unused, ...] = ()


@measurement(Cost.STATIC)
def label_sources(pipeline: Pipeline, batch: Batch, scan: Scan) -> LabelSources:
    """Look for other label columns where the collator is given none, and collate rows by them."""
    objective = objective_of(pipeline)
    given = batch.micro_batches[0].sources[0]
    column = pipeline.label_column(given)
    labels = [one for micro in batch for one in _labels(micro.inputs, objective)]
    unused: list[Unused] = []
    # A language model's labels are its tokens.
    if column is None and labels and not objective.shifts:
        for name, places, declared in _candidates(pipeline, scan.train):
            made = _collated(pipeline, objective, scan.train, places, {*given})
            unused.append(Unused(name, len(places), declared, name in given, len(set(made))))
    value = str(labels[0]) if labels else ""
    return LabelSources(len(labels), len(set(labels)), value, column, tuple(unused))


def _labels(inputs: Mapping[str, Any], objective: Objective) -> list[Any]:
    """Return the labels that the loss counts: one for each row, or for each token."""
    labels = listed({"labels": inputs.get("labels")})["labels"]
    if not isinstance(labels, list):
        return []
    if objective.of_rows:
        return [tuple(one) if isinstance(one, list) else one for one in labels if one != IGNORED]
    return [one for one in _flat(labels) if one != IGNORED]


def _flat(values: Any) -> Iterator[Any]:
    if not isinstance(values, list):
        yield values
        return
    for one in values:
        yield from _flat(one)


def _candidates(pipeline: Pipeline, train: Split) -> Iterator[tuple[str, list[int], bool]]:
    """Yield columns that look like labels, places of rows that differ in them, whether declared.

    Those whose type or name says so come first.
    """
    table, found = train.rows.table, []
    size = getattr(pipeline.config, "num_labels", None) or 0
    regression = objective_of(pipeline).name == REGRESSION
    known = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
    for name in table.column_names:
        if name in known:
            continue
        kind, first = _different(train, name)
        if len(first) < 2:
            continue
        names = getattr((train.rows.features or {}).get(name), "names", None) is not None
        named = any(word in name.lower().split("_") for word in NAMES)
        few = (kind == "float" and regression) or 2 <= len(first) <= size
        if names or (few and len(first) < len(train.rows)) or (named and few):
            found.append((name, first, names or named))
    yield from sorted(found, key=lambda one: not one[2])


def _different(train: Split, name: str) -> tuple[str, list[int]]:
    """Return the kind of a column with one value a row, and a place for each different value."""
    import numpy
    import pyarrow as pa
    from pyarrow import types

    column = train.rows.table.column(name)
    if types.is_floating(column.type):
        kind = "float"
    elif types.is_integer(column.type) or types.is_boolean(column.type):
        kind = "integer"
    elif types.is_string(column.type) or types.is_large_string(column.type):
        kind = "text"
    else:
        return "other", []
    if train.rows.stored is not None:
        column = column.take(pa.array(train.rows.stored))
    codes = column.combine_chunks().dictionary_encode().indices
    values = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    known, first = numpy.unique(values, return_index=True)
    return kind, [int(place) for code, place in zip(known, first, strict=True) if code >= 0]


def _collated(
    pipeline: Pipeline, objective: Objective, train: Split, places: list[int], given: set[str]
) -> list[Any]:
    """Return the labels that the collator makes of these rows; none if it refuses them."""
    import numpy

    from trainsanity.isolation.snapshot import preserved

    rows = [
        {key: value for key, value in row.items() if key in given}
        for row in train.rows.read(numpy.array(places[:PROBES]))
    ]
    with preserved(pipeline), quiet(pipeline):
        try:
            return _labels(pipeline.data_collator(copy.deepcopy(rows)), objective)
        except Exception:  # rows of its own choice are all that a collator has to take
            return []
