"""What all rows of a dataset begin with, and what they go on with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import IDS, MASK
from trainsanity.measurements.data.masks import FRAME
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 512
"""Rows of a dataset that are read, in even steps: one that begins otherwise in a hundred is among
them but once in two hundred times."""


@dataclass(frozen=True)
class Beginning:
    """How the rows of one dataset begin, behind what frames every text.

    Attributes:
        split: the dataset's name.
        rows: how many were read.
        shared: ids that all of them begin with.
        words: the same as text.
        firsts: the first id of each row, and how many have it.
        nexts: the first id behind what is shared, and how many rows have it.
    """

    split: str
    rows: int
    shared: tuple[int, ...]
    words: str
    firsts: Counter[int]
    nexts: Counter[int]


@measurement(Cost.STATIC)
def beginnings(pipeline: Pipeline, scan: Scan) -> list[Beginning]:
    """Read how rows begin, the training data first.

    Raises:
        Skip: there is no evaluation data or no tokenizer, or the rows are no single sequences.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise Skip("the pipeline has no tokenizer")
    if not scan.evals:
        raise Skip("there is no evaluation data")
    ids = (getattr(tokenizer, name, None) for name in FRAME)
    frame = {int(one) for one in ids if one is not None}
    return [_beginning(split, frame, tokenizer) for split in scan.splits]


def _beginning(split: Split, frame: set[int], tokenizer: Any) -> Beginning:
    import numpy

    split.require_one_sequence()
    places = numpy.unique(numpy.linspace(0, len(split.rows) - 1, ROWS).astype(int))
    names = [n for n in (IDS, MASK) if n in split.rows.table.column_names]
    rows: list[list[int]] = []
    for _, batch in split.rows.blocks(names, places):
        columns = [batch.column(name).to_pylist() for name in names]
        for ids, *masks in zip(*columns, strict=True):
            shown = masks[0] if masks and masks[0] is not None else [1] * len(ids or ())
            rows.append(_behind([i for i, m in zip(ids or (), shown, strict=False) if m], frame))
    rows = [row for row in rows if row]
    shared = _shared(rows)
    return Beginning(
        split.name,
        len(rows),
        shared,
        str(tokenizer.decode(list(shared))) if shared else "",
        Counter(row[0] for row in rows),
        Counter(row[len(shared)] for row in rows if len(row) > len(shared)),
    )


def _behind(ids: list[int], frame: set[int]) -> list[int]:
    """Return the ids behind what frames a text at its beginning."""
    return ids[next((k for k, one in enumerate(ids) if one not in frame), len(ids)) :]


def _shared(rows: list[list[int]]) -> tuple[int, ...]:
    if not rows:
        return ()
    low, high = min(rows), max(rows)
    size = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return tuple(low[: min(size, len(high))])
