"""Which tokens are targets in the whole dataset, by the role of their message.

Labels are made by the collator.  Where a column (labels, or masks) holds what the collator makes of
the rows that were drawn, that column is read for every row; else the rows that were drawn are all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import plain_values
from trainsanity.measurements.batches.answers import MASKS
from trainsanity.measurements.batches.chat_template import ChatTemplate
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.measurements.data.scan_blocks import Block
from trainsanity.measurements.data.scan_rows import lists, rows_of
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array, Rows
    from trainsanity.pipeline import Pipeline

OTHER = "no role"
"""Tokens before the first header of a row, or of rows without headers."""

BINS = 20
"""Bins of the histogram of rows by the share of them that is a target."""

NOTHING = -1
"""In place of a token where a row ends behind a run of targets."""

REPORT_EVERY = 100_000
"""Rows between two reports of progress."""


@dataclass
class Supervised:
    """Counts of what is trained, over all rows.

    Attributes:
        source: what was read, in words.
        columns: those that say what is a target; empty where all is, or the collator alone knows.
        whole: whether that is the whole dataset.
        rows: how many rows.
        roles: by role, tokens and targets among them, headers and closers included.  The first
            token of a row, which nothing predicts, is not counted.
        silent: rows without a target that are not cut; ``first_silent`` is the first one's number.
        full: rows of which every token is a target.
        spans: runs of targets behind something that is none.
        before, last, after: how many of these runs stand behind a token, end with one, and are
            followed by one (:data:`NOTHING` where the row ends).
        histogram: rows by the share of their tokens that is a target.
    """

    source: str = ""
    columns: tuple[str, ...] = ()
    whole: bool = False
    rows: int = 0
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    silent: int = 0
    first_silent: int | None = None
    full: int = 0
    spans: int = 0
    before: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    @property
    def tokens(self) -> int:
        """Tokens that could be targets."""
        return sum(tokens for tokens, _ in self.roles.values())

    @property
    def counted(self) -> int:
        """Targets."""
        return sum(counted for _, counted in self.roles.values())

    def told(self) -> str:
        """Return the share of targets, of each role, in words."""
        parts = [
            f"{counted / tokens:.0%} of {tokens:,} {_owner(name)} tokens"
            for name, (tokens, counted) in sorted(self.roles.items())
            if tokens
        ]
        return ", ".join(parts) or "no token"


def _owner(name: str) -> str:
    return "other" if name == OTHER else f"{name}'s"


@measurement(Cost.STATIC)
def supervised(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Supervised:
    """Count targets by role: of every row where the dataset stores them, else of those drawn.

    Raises:
        Skip: the labels are shifted.
    """
    if documents.shifted:
        raise Skip("the labels are those of the next token: collator.labels_aligned judges that")
    longest = max((len(one.ids) for one in documents.found), default=0)
    tally = _Tally(chat_template.headers, min(documents.limit or longest, longest))
    source = _source(pipeline, documents)
    if source is None:
        for one in documents.found:
            tally.add_document(one)
        tally.found.source = f"the {documents.rows} rows that were drawn, as collated"
        return tally.found
    rows, columns, label = source
    done = reported = 0
    for places, batch in rows.blocks(columns):
        tally.add_block(batch, label(batch), rows, places, pipeline)
        done += len(batch)
        if pipeline.progress and done - reported >= REPORT_EVERY:
            pipeline.progress(done, len(rows), "counting targets")
            reported = done
    said = [name for name in columns if name not in ("input_ids", "attention_mask")]
    tally.found.source = f"{' and '.join(said) or 'ids'} of {rows.sample or f'{len(rows):,} rows'}"
    tally.found.columns = tuple(said)
    tally.found.whole = not rows.sample
    return tally.found


Label = Callable[[Any], "Array"]
"""Returns which values of a block's ids are targets, as a mask."""


def _source(pipeline: Pipeline, documents: Documents) -> tuple[Rows, list[str], Label] | None:
    """Return the rows, the columns to read and how; None where the collator alone knows."""
    drawn = [one for one in documents.found if one.raw]
    if not drawn or len(drawn) < len(documents.found):
        return None
    names = list(drawn[0].raw)
    masks = [name for name in names if MASKS.search(name)]
    for columns in (["labels"] if "labels" in names else []), masks, []:
        if not all(_explains(one, columns) for one in drawn):
            continue
        try:
            rows = rows_of("train_dataset", pipeline.train_dataset)
        except Skip:
            return None
        have = list(rows.table.column_names)
        if "input_ids" not in have or any(name not in have for name in columns):
            return None
        read = [n for n in ("input_ids", "attention_mask", *columns) if n in have]
        return rows, read, partial(_targets, columns=columns)
    return None


def _explains(one: Document, columns: Sequence[str]) -> bool:
    """Return whether the columns of a row say what the collator made of it."""
    size = len(one.ids)
    # A dataset with a format gives tensors or arrays.
    given = [plain_values(one.raw[name]) for name in columns]
    if any(not isinstance(value, Sequence) or len(value) != size for value in given):
        return False
    ids = one.raw.get("input_ids")
    if ids is None or len(ids) != size:
        return False
    if columns == ["labels"]:
        wanted = [label != IGNORED for label in given[0]]
    else:
        wanted = [all(keep) for keep in zip(*given, strict=True)] if given else [True] * size
    return [label != IGNORED for label in one.labels[1:]] == wanted[1:]


def _targets(batch: Any, columns: Sequence[str]) -> Array:
    import numpy

    ids = lists(batch.column("input_ids"), "input_ids")
    counted: Array = numpy.ones(len(ids.values), bool)
    for name in columns:
        values = lists(batch.column(name), name).values
        if len(values) != len(counted):  # uneven rows are dataset.labels_fit_task's matter
            return numpy.zeros(len(counted), bool)
        counted &= values != IGNORED if name == "labels" else values.astype(bool)
    return counted


class _Tally:
    """Accumulates blocks of rows."""

    def __init__(self, headers: Mapping[str, tuple[int, ...]], bound: int) -> None:
        self.bound = bound
        """Rows of so many tokens may have lost an end."""
        # A longer header may hold a shorter one.
        self.headers = sorted(headers.items(), key=lambda item: -len(item[1]))
        self.names = [OTHER, *(role for role, _ in self.headers)]
        self.found = Supervised()

    def add_document(self, one: Document) -> None:
        import numpy

        ids = numpy.array(one.ids, numpy.int64)
        counted = numpy.array(one.labels) != IGNORED
        self._add(ids, counted, numpy.array([0, len(ids)]), lambda k: one.row)

    def add_block(
        self, batch: Any, counted: Array, rows: Rows, places: Any, pipeline: Pipeline
    ) -> None:
        import numpy

        block = Block.of(batch, getattr(pipeline.tokenizer, "pad_token_id", None))
        ids, offsets = block.ids.values, block.ids.offsets
        if (kept := block.kept) is not None:
            ends = numpy.concatenate([[0], numpy.cumsum(kept)])
            ids, counted, offsets = ids[kept], counted[kept], ends[offsets]
        first = places.start if isinstance(places, slice) else None

        def number(k: int) -> int:
            return rows.number(first + k if first is not None else int(places[k]))

        self._add(ids, counted, offsets, number)

    def _add(
        self, ids: Array, counted: Array, offsets: Array, number: Callable[[int], int]
    ) -> None:
        import numpy

        found = self.found
        lengths = offsets[1:] - offsets[:-1]
        found.rows += len(lengths)
        starts = offsets[:-1][lengths > 0]
        if not len(ids):
            return
        counted = counted.copy()
        counted[starts] = False  # nothing predicts a row's first token
        could = numpy.ones(len(ids), bool)
        could[starts] = False
        roles = self._roles(ids, starts)
        size = len(self.names)
        tokens = numpy.bincount(roles[could], minlength=size)
        targets = numpy.bincount(roles[counted], minlength=size)
        for k, name in enumerate(self.names):
            before = found.roles.get(name, (0, 0))
            found.roles[name] = (before[0] + int(tokens[k]), before[1] + int(targets[k]))
        ends = numpy.concatenate([[0], numpy.cumsum(counted)])
        own = ends[offsets[1:]] - ends[offsets[:-1]]
        asked = lengths > 1
        silent = asked & (own == 0) & (lengths < self.bound)
        found.silent += int(silent.sum())
        if found.first_silent is None and silent.any():
            found.first_silent = number(int(silent.argmax()))
        found.full += int((asked & (own == lengths - 1)).sum())
        shares = own[asked] / (lengths[asked] - 1)
        bins = numpy.minimum((shares * BINS).astype(int), BINS - 1)
        for k, n in enumerate(numpy.bincount(bins, minlength=BINS)):
            found.histogram[k] += int(n)
        whole = numpy.repeat(lengths < self.bound, lengths)
        self._spans(ids, counted, starts, whole)

    def _roles(self, ids: Array, starts: Array) -> Array:
        """Return the number of each token's role."""
        import numpy

        marks = numpy.zeros(len(ids), numpy.int8)
        for k, (_, header) in enumerate(self.headers, 1):
            hit = ids == header[0]
            for step, token in enumerate(header[1:], 1):
                hit[:-step] &= ids[step:] == token
                hit[len(ids) - step :] = False
            marks[hit & (marks == 0)] = k
        turns = marks > 0
        turns[starts] = True
        places = numpy.flatnonzero(turns)
        if not len(places):
            return marks
        sizes = numpy.diff(numpy.append(places, len(ids)))
        return numpy.repeat(marks[places], sizes)

    def _spans(self, ids: Array, counted: Array, starts: Array, whole: Array) -> None:
        """Count the tokens around runs of targets that have something before them."""
        import numpy

        begins = counted.copy()
        begins[1:] &= ~counted[:-1]
        first = numpy.zeros(len(ids) + 1, bool)
        first[starts] = True
        first[-1] = True
        at = numpy.flatnonzero(begins)
        at = at[at > 0]
        at = at[~first[at - 1]]  # from the second token on: nothing stands before it
        if not len(at):
            return
        closes = counted & ~numpy.append(counted[1:], False)
        closes |= counted & first[1:]
        ends = numpy.flatnonzero(closes)
        ends = ends[numpy.searchsorted(ends, at)]
        found = self.found
        found.spans += len(at)
        found.before.update(_counts(ids[at - 1]))
        inside = ~first[ends + 1]
        found.last.update(_counts(ids[ends[inside | whole[ends]]]))
        found.after.update(_counts(ids[ends[inside] + 1]))
        found.after[NOTHING] += int((~inside).sum())


def _counts(values: Array) -> dict[int, int]:
    import numpy

    some, count = numpy.unique(values, return_counts=True)
    return {int(v): int(n) for v, n in zip(some, count, strict=True)}


def most_common(counted: Counter[int]) -> Iterator[tuple[int, int]]:
    """Return tokens with their counts, the most frequent first; without the ends of rows."""
    return ((token, n) for token, n in counted.most_common() if token != NOTHING)
