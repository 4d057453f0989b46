"""Evaluation rows that begin inside training rows, as windows do that overlap in one text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.measurements.data.scan_blocks import Block
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array

SIZE = 16
"""Tokens that two rows share at the least, one at its end and the other at its beginning."""

DIFFERENT = 8
"""Different tokens among them: lines of dashes, and lists of numbers, recur in any text."""

ENDS = 2
"""Special tokens that a row may have around its text."""

LOOKED_AT = 256
"""Evaluation rows that are looked for."""

TOKENS = 1 << 22
"""Training tokens that are read, at about a second for all of them."""

SAME_HEAD = 4
"""Evaluation rows that may begin alike: more of them have a beginning in common, as a prompt."""

FEW = 0.05
"""Largest share of training rows, and four rows at the least, that may hold a run which is no
boilerplate: of windows that overlap, each run is in those few that lie over it."""

ALIKE = 0.5
"""Share of the rows that overlap which do so by the same number of tokens: of windows nearly all of
them, but for those whose neighbour is held out, too."""

FACTOR = 0x9E3779B97F4A7C15
"""An odd number, by which hashes are rolled: the golden ratio's digits."""


@dataclass(frozen=True)
class Overlap:
    """Evaluation rows whose beginning is the end of a training row.

    Attributes:
        looked_at: rows whose beginnings were looked for.
        rows: how many of them were found.
        share: of the training data that was read.
        first: the places of the first of them and of its training row; None if there is none.
        tokens: of the run that two rows share, as many for all of them.
    """

    looked_at: int = 0
    rows: int = 0
    share: float = 1.0
    first: tuple[int, int] | None = None
    tokens: int = 0


@measurement(Cost.STATIC)
def overlaps(scan: Scan) -> dict[str, Overlap]:
    """Look for the beginnings of evaluation rows at other places of training rows.

    What rows share from their beginning on, as a system prompt, is none, and neither is a run that
    many training rows hold, or one that is longer or shorter than those of most.  Empty where rows
    are no ids of one sequence.
    """
    if any(not one.content.plain or one.reach is not None for one in scan.splits):
        return {}
    return {split.name: _overlap(scan.train, split) for split in scan.evals}


def _overlap(train: Split, split: Split) -> Overlap:
    import numpy

    long = numpy.flatnonzero(split.lengths >= SIZE + ENDS)
    places = spread(long, LOOKED_AT)
    heads: list[tuple[int, int, int, Array]] = []  # hash, place, offset, ids
    for where, block in split.blocks(places):
        for place, ids in zip(numbers_of(where), rows_of_block(block), strict=True):
            for offset in range(ENDS + 1):
                part = ids[offset : offset + SIZE]
                if len(part) == SIZE and len(numpy.unique(part)) >= DIFFERENT:
                    heads.append((int(_hashes(part)[0]), place, offset, ids))
    if not heads:
        return Overlap(len(places))
    by_hash: dict[int, list[tuple[int, int, Array]]] = {}
    for key, place, offset, ids in heads:
        by_hash.setdefault(key, []).append((place, offset, ids))
    keys = [key for key, ones in by_hash.items() if len(ones) <= SAME_HEAD]
    if not keys:  # all begin alike, as with one system prompt
        return Overlap(len(places))
    wanted = numpy.unique(numpy.array(keys, numpy.uint64))
    mean = max(1.0, float(train.lengths.mean())) if len(train.lengths) else 1.0
    read = spread(numpy.arange(len(train.rows)), max(1, int(TOKENS / mean)))
    most = max(4, FEW * len(read))
    holding: dict[int, int] = {}
    found: list[tuple[int, int, int, int]] = []  # hash, place, training place, tokens
    for where, block in train.blocks(read):
        rows, numbers = rows_of_block(block), numbers_of(where)
        for k, at, key in _hits(rows, wanted):
            holding[key] = holding.get(key, 0) + 1
            if holding[key] > most:
                continue
            for place, offset, ids in by_hash[key]:
                # Windows are of one length, but for the last of a text.
                size = _shared(ids, offset, rows[k], at) if len(ids) == len(rows[k]) else 0
                if size:
                    found.append((key, place, numbers[k], size))
    kept = [one for one in found if holding[one[0]] <= most]
    pairs, tokens = _of_one_stride(kept)
    return Overlap(
        len(places),
        len(pairs),
        len(read) / max(1, len(train.rows)),
        min(pairs.items(), default=None),
        tokens,
    )


def _of_one_stride(found: list[tuple[int, int, int, int]]) -> tuple[dict[int, int], int]:
    """Return a training row for each evaluation row that it overlaps with, and by how many tokens.

    Windows of one stride overlap with their neighbour by as many tokens each; texts that share a
    passage do not, and neither do rows that count on from where others began.
    """
    nearest: dict[int, int] = {}
    for _, place, _, size in found:
        nearest[place] = max(size, nearest.get(place, 0))
    sizes = Counter(nearest.values())
    usual, often = max(sizes.items(), key=lambda one: one[::-1], default=(0, 0))
    if often < ALIKE * len(nearest):
        return {}, 0
    pairs: dict[int, int] = {}
    for _, place, twin, size in found:
        if size == usual == nearest[place]:
            pairs.setdefault(place, twin)
    return pairs, usual


def _shared(ids: Array, offset: int, row: Array, at: int) -> int:
    """Return how many tokens from there on are alike up to the training row's end; else 0."""
    import numpy

    if at <= offset + ENDS:  # both begin alike
        return 0
    for cut in range(ENDS + 1):
        size = len(row) - cut - at
        fits = size >= SIZE and size + offset <= len(ids)
        if fits and numpy.array_equal(ids[offset : offset + size], row[at : at + size]):
            return size
    return 0


def spread(places: Array, count: int) -> Array:
    """Return at most so many places, from all over."""
    import numpy

    if len(places) <= count:
        return places
    chosen: Array = places[numpy.arange(count) * len(places) // count]
    return chosen


def numbers_of(where: Array) -> list[int]:
    """Return places as plain numbers."""
    numbers: list[int] = where.tolist()
    return numbers


def rows_of_block(block: Block) -> list[Array]:
    """Return the attended ids of each row, from the first to the last."""
    begins, spans, _ = block.extents
    values = block.ids.values
    return [values[a : a + n] for a, n in zip(begins.tolist(), spans.tolist(), strict=True)]


def _hashes(ids: Array) -> Array:
    """Return a hash of the tokens from each place on."""
    import numpy

    found = numpy.zeros(max(0, len(ids) - SIZE + 1), numpy.uint64)
    for step in range(SIZE):
        found *= numpy.uint64(FACTOR)
        found += ids[step : step + len(found)].astype(numpy.uint64) + numpy.uint64(1)
    return found


def _hits(rows: list[Array], wanted: Array) -> list[tuple[int, int, int]]:
    """Return row, place and hash wherever a row has one of these hashes."""
    import numpy

    if not rows:
        return []
    lengths = numpy.array([len(row) for row in rows])
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    hashes = _hashes(numpy.concatenate(rows))
    near = numpy.searchsorted(wanted, hashes)
    at = numpy.flatnonzero(wanted.take(near, mode="clip") == hashes)
    owner = numpy.searchsorted(starts, at, side="right") - 1
    inside = at - starts[owner]
    whole = inside + SIZE <= lengths[owner]  # none that reaches into the next row
    return [
        (int(k), int(place), int(hashes[where]))
        for k, place, where in zip(owner[whole], inside[whole], at[whole], strict=True)
    ]
