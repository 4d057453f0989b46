"""Evaluation rows that training rows begin with and go on from, as chats that grow by a turn."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.measurements.data.overlaps import (
    DIFFERENT,
    ENDS,
    FACTOR,
    FEW,
    LOOKED_AT,
    SAME_HEAD,
    SIZE,
    TOKENS,
    numbers_of,
    rows_of_block,
    spread,
)
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array


@dataclass(frozen=True)
class Continued:
    """Evaluation rows whose whole text is the beginning of a longer training row.

    Attributes:
        looked_at: rows that were looked for.
        rows: how many of them were found.
        first: the places of the first of them and of its training row; None if there is none.
    """

    looked_at: int = 0
    rows: int = 0
    first: tuple[int, int] | None = None


@measurement(Cost.STATIC)
def continued(scan: Scan) -> dict[str, Continued]:
    """Look for whole evaluation rows at the beginning of training rows; empty without plain ids."""
    if any(not one.content.plain or one.reach is not None for one in scan.splits):
        return {}
    return {split.name: _continued(scan.train, split) for split in scan.evals}


def _continued(train: Split, split: Split) -> Continued:
    import numpy

    places = spread(numpy.flatnonzero(split.lengths >= SIZE + ENDS), LOOKED_AT)
    wanted: dict[tuple[int, int], list[tuple[int, Array]]] = defaultdict(list)
    for where, block in split.blocks(places):
        for place, ids in zip(numbers_of(where), rows_of_block(block), strict=True):
            # A row may end with tokens that the longer one has further on.
            whole = ids[: len(ids) - ENDS]
            if len(numpy.unique(whole)) >= DIFFERENT:
                wanted[len(whole), int(_prefixes(whole)[-1])].append((place, whole))
    if not wanted:
        return Continued(len(places))
    lengths = numpy.unique([length for length, _ in wanted])
    mean = max(1.0, float(train.lengths.mean())) if len(train.lengths) else 1.0
    read = spread(numpy.arange(len(train.rows)), max(1, int(TOKENS / mean)))
    pairs: dict[int, int] = {}
    times: Counter[int] = Counter()
    for where, block in train.blocks(read):
        for number, row in zip(numbers_of(where), rows_of_block(block), strict=True):
            # By more than the ends that both may have: what goes on says something.
            shorter = lengths[lengths < len(row) - 2 * ENDS]
            if not len(shorter):
                continue
            at = _prefixes(row)[shorter - 1]
            for length, key in zip(shorter.tolist(), at.tolist(), strict=True):
                for place, whole in wanted.get((length, key), ()):
                    if numpy.array_equal(whole, row[:length]):
                        pairs.setdefault(place, number)
                        times[place] += 1
    # What many rows begin with is how they are written.
    own = {
        place: pairs[place] for place in pairs if times[place] <= max(SAME_HEAD, FEW * len(read))
    }
    return Continued(len(places), len(own), min(own.items(), default=None))


def _prefixes(ids: Array) -> Array:
    """Return a hash of each beginning of a row, of one token and of more."""
    import numpy

    powers = numpy.cumprod(numpy.full(len(ids), FACTOR, numpy.uint64), dtype=numpy.uint64)
    # Ids from 1 on: a 0 would leave no trace.
    summed: Array = numpy.cumsum((ids.astype(numpy.uint64) + 1) * powers, dtype=numpy.uint64)
    return summed
