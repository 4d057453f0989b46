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
from trainsanity.measurements.data.scan_rows import lists, row_of, rows_of
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
    said = [name for name in columns if name not in ("input_ids", "attention_mask")]
    tally.named = bool(said)
    done = reported = 0
    for places, batch in rows.blocks(columns):
        tally.add_block(batch, label(batch), rows, places, pipeline)
        done += len(batch)
        if pipeline.progress and done - reported >= REPORT_EVERY:
            pipeline.progress(done, len(rows), "counting targets")
            reported = done
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

    size = len(lists(batch.column("input_ids"), "input_ids").values)
    counted: Array | None = None
    for name in columns:
        values = lists(batch.column(name), name).values
        if len(values) != size:  # uneven rows are dataset.labels_fit_task's matter
            return numpy.zeros(size, bool)
        these: Array = values != (IGNORED if name == "labels" else 0)
        counted = these if counted is None else counted & these
    return numpy.ones(size, bool) if counted is None else counted


class _Tally:
    """Accumulates blocks of rows."""

    def __init__(self, headers: Mapping[str, tuple[int, ...]], bound: int) -> None:
        self.bound = bound
        """Rows of so many tokens may have lost an end."""
        self.named = False
        """Columns of the dataset say which tokens are targets."""
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
            if self.named:
                kept = kept | counted  # where PAD is EOS as well, the one that is a target is text
            ends = numpy.concatenate([[0], numpy.cumsum(kept)])
            ids, counted, offsets = ids[kept], counted[kept], ends[offsets]
        first = places.start if isinstance(places, slice) else None

        def number(k: int) -> int:
            return rows.number(first + k if first is not None else int(places[k]))

        self._add(ids, counted, offsets, number)

    def _add(
        self, ids: Array, counted: Array, offsets: Array, number: Callable[[int], int]
    ) -> None:
        """Count rows that lie end to end.

        The tokens are gone over once for targets and once for each token that begins a header; all
        else is asked of runs, messages and rows, of which there are few.
        """
        import numpy

        found = self.found
        lengths = offsets[1:] - offsets[:-1]
        found.rows += len(lengths)
        starts = offsets[:-1][lengths > 0]
        if not len(ids):
            return
        runs = _Runs.of(counted, starts)
        own = numpy.diff(runs.before(offsets))
        self._roles(ids, starts, runs)
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
        self._spans(ids, runs, starts, offsets)

    def _roles(self, ids: Array, starts: Array, runs: _Runs) -> None:
        """Add tokens and targets of each message to those of its role."""
        import numpy

        places, marks = self._turns(ids, starts)
        borders = numpy.append(places, len(ids))
        # Nothing predicts a row's first token.
        tokens = numpy.diff(borders) - _among(places, starts)
        targets = numpy.diff(runs.before(borders))
        for k, name in enumerate(self.names):
            before, own = self.found.roles.get(name, (0, 0)), marks == k
            self.found.roles[name] = (
                before[0] + int(tokens[own].sum()),
                before[1] + int(targets[own].sum()),
            )

    def _turns(self, ids: Array, starts: Array) -> tuple[Array, Array]:
        """Return where headers and rows begin, ascending, and the number of the role of each."""
        import numpy

        hits: dict[int, Array] = {}
        places, marks = [], []
        for k, (_, header) in enumerate(self.headers, 1):
            if header[0] not in hits:
                hits[header[0]] = numpy.flatnonzero(ids == header[0])
            at = hits[header[0]]
            at = at[at <= len(ids) - len(header)]
            for step, token in enumerate(header[1:], 1):
                at = at[ids[at + step] == token]
            places.append(at)
            marks.append(numpy.full(len(at), k, numpy.int8))
        places.append(starts)
        marks.append(numpy.zeros(len(starts), numpy.int8))
        # Of those at the same place the first: the longest header.
        every, first = numpy.unique(numpy.concatenate(places), return_index=True)
        return every, numpy.concatenate(marks)[first]

    def _spans(self, ids: Array, runs: _Runs, starts: Array, offsets: Array) -> None:
        """Count the tokens around runs of targets that have something before them."""
        import numpy

        behind = ~_among(runs.begins - 1, starts)  # from the second token on nothing is before it
        at, stops = runs.begins[behind], runs.stops[behind]
        if not len(at):
            return
        found = self.found
        inside = ~_among(stops, numpy.append(starts, len(ids)))
        rows = row_of(offsets, stops - 1)
        whole = offsets[rows + 1] - offsets[rows] < self.bound
        found.spans += len(at)
        found.before.update(_counts(ids[at - 1]))
        found.last.update(_counts(ids[stops[inside | whole] - 1]))
        found.after.update(_counts(ids[stops[inside]]))
        found.after[NOTHING] += int((~inside).sum())


@dataclass(eq=False)
class _Runs:
    """Runs of targets in rows that lie end to end: none goes on into the next row.

    Attributes:
        begins, stops: where each begins, and the place behind it; ascending.
        sums: targets before each run, and after the last.
    """

    begins: Array
    stops: Array
    sums: Array

    @classmethod
    def of(cls, counted: Array, starts: Array) -> _Runs:
        """Return the runs of a mask; nothing predicts a row's first token, so it is none."""
        import numpy

        counted = counted.copy()
        counted[starts] = False
        edges = numpy.flatnonzero(counted[1:] != counted[:-1]) + 1
        if counted[-1]:
            edges = numpy.append(edges, len(counted))
        begins, stops = edges[::2], edges[1::2]
        return cls(begins, stops, numpy.concatenate([[0], numpy.cumsum(stops - begins)]))

    def before(self, places: Array) -> Array:
        """Return how many targets stand before each place."""
        import numpy

        runs = numpy.searchsorted(self.begins, places)
        if not len(self.begins):
            return runs
        beyond = self.stops.take(runs - 1, mode="clip") - places  # of a run that the place is in
        sums: Array = self.sums[runs] - numpy.where(runs > 0, numpy.maximum(beyond, 0), 0)
        return sums


def _among(places: Array, others: Array) -> Array:
    """Return which places are among others, which ascend."""
    import numpy

    found: Array = others.take(numpy.searchsorted(others, places), mode="clip") == places
    return found


def _counts(values: Array) -> dict[int, int]:
    import numpy

    some, count = numpy.unique(values, return_counts=True)
    return {int(v): int(n) for v, n in zip(some, count, strict=True)}


def most_common(counted: Counter[int]) -> Iterator[tuple[int, int]]:
    """Return tokens with their counts, the most frequent first; without the ends of rows."""
    return ((token, n) for token, n in counted.most_common() if token != NOTHING)
