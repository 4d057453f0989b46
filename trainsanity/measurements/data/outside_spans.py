"""Spans of answers whose positions lie outside of their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import IDS
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.marked_spans import ENDS, STARTS
from trainsanity.measurements.data.talks import spread_rows
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass
class OutsideSpans:
    """Rows with a start and an end.

    Attributes:
        rows: their number.
        outside: numbers of those whose span begins or ends behind the row's last token.
        same: all of these have one and the same position, as a sign for "not here" has.
        example: start, end and length of the first of them.
    """

    rows: int = 0
    outside: list[int] = field(default_factory=list)
    same: bool = False
    example: tuple[int, int, int] | None = None


@measurement(Cost.STATIC)
def outside_spans(pipeline: Pipeline) -> OutsideSpans:
    """Compare the positions of answers with the lengths of their rows.

    Raises:
        Skip: the rows have no start_positions and end_positions beside their ids.
    """
    found, places = OutsideSpans(), Counter[int]()
    with preserved(pipeline), quiet(pipeline):
        for number, row in spread_rows(pipeline.train_dataset):
            ids = row.get(IDS)
            if not (_is_place(row.get(STARTS)) and _is_place(row.get(ENDS))) or ids is None:
                continue
            start, end = int(row[STARTS]), int(row[ENDS])
            found.rows += 1
            if max(start, end) >= len(ids):
                found.outside.append(number)
                found.example = found.example or (start, end, len(ids))
                places[start] += 1
    if not found.rows:
        raise Skip("no row has start_positions and end_positions beside its input_ids")
    found.same = len(places) == 1 and len(found.outside) > 1
    return found


def _is_place(value: Any) -> bool:
    return isinstance(value, int) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0)
