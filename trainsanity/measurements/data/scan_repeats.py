"""Rows that are there more than once: inside the training data, and in training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.measurements.data.scan_content import beside_ids, innermost
from trainsanity.measurements.data.scan_labels import AT_ONCE
from trainsanity.measurements.data.scan_rows import joined
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Leak:
    """Rows of one evaluation split that are trained on.

    Attributes:
        rows: their number.
        first: the places of the first of them and of its twin in the training data, or None.
        unlike: rows whose numbers are those of training rows that all have another label; rows of
            token ids are counted whatever their labels.
        apart: whether the first of them and its twin have labels at other places of the same row:
            nodes of one graph, pixels of one map.
    """

    rows: int
    first: tuple[int, int] | None
    unlike: int = 0
    apart: bool = False


@dataclass(frozen=True)
class Repeats:
    """Rows with the same ids, padding aside, and the same pictures or numbers beside them.

    Attributes:
        copies: training rows that equal an earlier one, label included.
        first_copy: the places of the first of them and of the earlier one, or None.
        in_order: how many of them stand behind another as the rows that they equal do.
        contradictions: training rows whose label is not the most frequent one of the rows with
            the same ids: what no function of the ids can get right.
        first_contradiction: places of two rows with the same ids and different labels, or None.
        leaks: evaluation split to :class:`Leak`.
        agreement: of the labels of rows with the same ids, as Cohen's kappa: 1 where all agree, 0
            as often as labels dealt out at random.
    """

    copies: int
    first_copy: tuple[int, int] | None
    in_order: int
    contradictions: int
    first_contradiction: tuple[int, int] | None
    leaks: dict[str, Leak]
    agreement: float = 0.0


@measurement(Cost.STATIC)
def repeats(pipeline: Pipeline, scan: Scan) -> Repeats:
    """Compare all rows by signature, and those that agree by a 128-bit hash of all their ids.

    A picture beside the ids is part of the row: one question may be asked of many.
    """
    import numpy

    splits = scan.splits
    places = _candidates(splits)
    hashes = numpy.concatenate(
        [_hashes(pipeline, split, where) for split, where in zip(splits, places, strict=True)]
    )
    _, groups = numpy.unique(hashes, return_inverse=True)
    ends = numpy.cumsum([len(where) for where in places])[:-1]
    train, *evals = numpy.split(groups.reshape(-1), ends)
    within = _within(scan.train, places[0], train)
    leaks = {
        split.name: _alike(
            _leak(places[0], train, where, part),
            (scan.train, split),
            (places[0], where),
            (train, part),
        )
        for split, where, part in zip(splits[1:], places[1:], evals, strict=True)
    }
    return Repeats(*within, leaks, _agreement(scan.train, places[0], train))


def _candidates(splits: tuple[Split, ...]) -> list[Array]:
    """Places, per split, of the rows whose signature is not alone."""
    import numpy

    # Sorting one half of them takes half the room, and rows that agree in a half are few.
    every = numpy.concatenate([split.signatures.view(numpy.uint32)[::2] for split in splits])
    every.sort()
    twice = every[1:][every[1:] == every[:-1]]
    near = numpy.zeros(1 << 16, bool)
    near[twice.view(numpy.uint16)[1::2]] = True
    places = [_those(near, split.signatures.view(numpy.uint16)[1::4]) for split in splits]
    signed = numpy.concatenate(
        [split.signatures[where] for split, where in zip(splits, places, strict=True)]
    )
    _, groups, counts = numpy.unique(signed, return_inverse=True, return_counts=True)
    shared = (counts[groups] > 1) & (signed != 0)  # empty rows are another matter
    ends = numpy.cumsum([len(where) for where in places])[:-1]
    return [where[some] for where, some in zip(places, numpy.split(shared, ends), strict=True)]


def _those(near: Array, keys: Array) -> Array:
    """Return where keys are near, a part at a time: as indices they take four times their room."""
    import numpy

    parts = range(0, len(keys), AT_ONCE)
    return joined([at + numpy.flatnonzero(near[keys[at : at + AT_ONCE]]) for at in parts])


def _hashes(pipeline: Pipeline, split: Split, places: Array) -> Array:
    """A 128-bit hash of each row's attended ids, in the order of the places."""
    import numpy
    from xxhash import xxh3_128_digest

    hashes = numpy.zeros(len(places), dtype="V16")
    if not len(places):
        return hashes
    for where, block in split.blocks(places):
        # Splits may differ in the width of their integers.
        content = block.ids.values.astype(numpy.int64, copy=False).data.cast("B")
        begins, spans, _ = block.extents
        digests = b"".join(
            [
                xxh3_128_digest(content[a:b])
                for a, b in zip((8 * begins).tolist(), (8 * (begins + spans)).tolist(), strict=True)
            ]
        )
        hashes[numpy.searchsorted(places, where)] = numpy.frombuffer(digests, dtype="V16")
    schema, label = split.rows.table.schema, split.labels.column if split.labels else None
    if columns := beside_ids(pipeline, schema, label):
        _add_others(hashes, split, places, columns)
    return hashes


def _add_others(hashes: Array, split: Split, places: Array, columns: list[str]) -> None:
    """Make the hashes those of the ids and of what stands in these columns, the latter by bits."""
    import numpy
    from xxhash import xxh3_128_digest

    for where, batch in split.rows.blocks(columns, places):
        parts = [innermost(batch.column(name), f"{name} of {split.name}") for name in columns]
        for k, at in enumerate(numpy.searchsorted(places, where).tolist()):
            held = [part.values[part.offsets[k] : part.offsets[k + 1]].tobytes() for part in parts]
            digest = xxh3_128_digest(b"".join([hashes[at].tobytes(), *held]))
            hashes[at] = numpy.frombuffer(digest, dtype="V16")[0]


def _within(
    train: Split, places: Array, groups: Array
) -> tuple[int, tuple[int, int] | None, int, int, tuple[int, int] | None]:
    import numpy

    labels = train.labels.codes if train.labels is not None and len(places) else None
    codes = numpy.zeros(len(places), numpy.int64) if labels is None else labels[places]
    order = numpy.lexsort((places, codes, groups))
    places, groups, codes = places[order], groups[order], codes[order]
    same = groups[1:] == groups[:-1]
    copied = same & (codes[1:] == codes[:-1])
    # Runs of equal (ids, label), and among those of equal ids the longest.
    starts = numpy.flatnonzero(numpy.concatenate([[True], ~copied])[: len(places)])
    sizes = numpy.diff(numpy.append(starts, len(places)))
    run_groups = groups[starts]
    if not len(starts):
        return 0, None, 0, 0, None
    begins = numpy.flatnonzero(numpy.concatenate([[True], run_groups[1:] != run_groups[:-1]]))
    most = numpy.maximum.reduceat(sizes, begins)
    wrong = int(sizes.sum() - most.sum())
    return (
        int(copied.sum()),
        _pair(places, copied),
        _in_order(places, starts, sizes),
        wrong,
        _pair(places, same & ~copied),
    )


def _agreement(train: Split, places: Array, groups: Array) -> float:
    import numpy

    if train.labels is None or train.labels.codes is None or not len(places):
        return 0.0
    codes = train.labels.codes[places]
    _, of_one_text = numpy.unique(groups, return_counts=True)
    _, alike = numpy.unique(numpy.stack([groups, codes]), axis=1, return_counts=True)
    _, of_one_label = numpy.unique(codes, return_counts=True)
    pairs = float((of_one_text * (of_one_text - 1)).sum())
    chance = float(((of_one_label / len(codes)) ** 2).sum())
    if not pairs or chance >= 1:
        return 0.0
    return (float((alike * (alike - 1)).sum()) / pairs - chance) / (1 - chance)


def _in_order(places: Array, starts: Array, sizes: Array) -> int:
    """Count copies whose place and whose original's place are each one more than another's."""
    import numpy

    later = numpy.delete(places, starts)
    earlier = numpy.repeat(places[starts], sizes - 1)
    order = numpy.lexsort((earlier, later))
    steps = numpy.diff(later[order]), numpy.diff(earlier[order])
    return int(((steps[0] == 1) & (steps[1] == 1)).sum())


def _pair(places: Array, which: Array) -> tuple[int, int] | None:
    """The later and the earlier place of the neighbouring pair whose later place comes first."""
    import numpy

    at = numpy.flatnonzero(which)
    if not len(at):
        return None
    later = numpy.maximum(places[at], places[at + 1])
    best = int(numpy.argmin(later))
    return int(later[best]), int(min(places[at[best]], places[at[best] + 1]))


def _alike(
    leak: Leak,
    splits: tuple[Split, Split],
    places: tuple[Array, Array],
    groups: tuple[Array, Array],
) -> Leak:
    """Return the leak among rows of numbers whose label is the same, too; others as they are.

    A table of few categories has equal rows by nature.
    """
    import pyarrow

    sources = [split.labels.source if split.labels is not None else None for split in splits]
    if splits[1].content.role != NUMBERS or leak.first is None:
        return leak
    counted = [_counted(one, at) for one, at in zip(splits, reversed(leak.first), strict=True)]
    if all(counted) and not set.intersection(*counted):
        return replace(leak, apart=True)
    taken = [
        one.take(pyarrow.array(at))
        for one, at in zip(sources, places, strict=True)
        if one is not None
    ]
    if len(taken) < len(sources):
        return leak
    every = pyarrow.chunked_array([c for one in taken for c in one.cast(taken[0].type).chunks])
    encoded = every.combine_chunks().dictionary_encode().indices.fill_null(-1)
    codes = encoded.to_numpy(zero_copy_only=False).astype("int64") + 1
    size, own = int(codes.max(initial=0)) + 1, len(groups[0])
    found = _leak(
        places[0], groups[0] * size + codes[:own], places[1], groups[1] * size + codes[own:]
    )
    return replace(found, unlike=leak.rows - found.rows)


def _counted(split: Split, place: int) -> set[int]:
    """Return the places of a row's labels that are not -100; none where it has no list of them."""
    import numpy

    names = [name for name in ("labels", "label") if name in split.rows.table.schema.names]
    for _, batch in split.rows.blocks(names[:1], numpy.array([place])) if names else ():
        row = batch.column(0)[0].as_py()
        values = numpy.asarray(row if isinstance(row, list) else []).reshape(-1)
        return {int(at) for at in numpy.flatnonzero(values != -100)}
    return set()


def _leak(train_places: Array, train: Array, places: Array, groups: Array) -> Leak:
    import numpy

    known, first = numpy.unique(train, return_index=True)
    at = numpy.searchsorted(known, groups)
    if not len(known):
        return Leak(0, None)
    seen = known.take(at, mode="clip") == groups
    if not seen.any():
        return Leak(0, None)
    k = int(numpy.argmax(seen))
    return Leak(int(seen.sum()), (int(places[k]), int(train_places[first[at[k]]])))
