"""One pass over the rows of the training and evaluation data: lengths, ids, labels, padding."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import UsageError
from trainsanity.fields import IDS, MASK, PLAIN, TOKENS, Content
from trainsanity.isolation.whole_batches import rows_of_batches
from trainsanity.measurements.data.scan_blocks import Block, Special, signatures
from trainsanity.measurements.data.scan_columns import refuse_without_ids, stored_columns
from trainsanity.measurements.data.scan_content import content_of
from trainsanity.measurements.data.scan_labels import AT_ONCE, Labels, LabelTally
from trainsanity.measurements.data.scan_rows import (
    Rows,
    joined,
    places_of,
    refuse_negative,
    refuse_unreadable,
    room,
    rows_of,
    side_by_side,
)
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array
    from trainsanity.pipeline import Pipeline

SPECIAL = ("pad", "eos", "bos", "cls", "sep")
"""The tokenizer's special tokens that are counted."""

AT_A_TIME = 16
"""Blocks that are read together.  Reading a block's ids evicts everything else from the
processor's cache, the code too; so between two blocks only what needs their ids is computed."""

REPORT_EVERY = 100_000
"""Rows between two reports of progress."""


@dataclass(frozen=True, eq=False)
class Split:
    """Lengths, ids and labels of one dataset's rows.  A row's place indexes the arrays.

    Attributes:
        rows: where they come from.
        widths: stored tokens of each row.
        lengths: those that are not padding.
        spans: from the first of those to the last.
        signatures: equal for rows with equal attended ids, 0 for rows without any.
        first, last: the attended ids at the ends of each row, anything for an empty one; None if
            rows that are not among the longest begin, or end, differently.
        lowest, highest: ids, with the places of rows that hold them; None if there is no token.
        special: id to where it stands.
        nulls: places of rows that are null or hold a null.
        uneven: places of rows whose attention mask has another length than their ids.
        labels: the label column, or None.
        pad: the tokenizer's PAD, or None.
        content: which columns the ids are, and what they hold; those of other roles than token ids
            are compared, and have no lengths, special ids or padding.
        reach: tokens of each row's longest sequence; None where a row's ids are one sequence.
    """

    rows: Rows
    widths: Array
    lengths: Array
    spans: Array
    signatures: Array
    first: Array | None
    last: Array | None
    lowest: tuple[int, int] | None
    highest: tuple[int, int] | None
    special: Mapping[int, Special]
    nulls: Array
    uneven: Array
    labels: Labels | None
    pad: int | None = None
    content: Content = PLAIN
    reach: Array | None = None

    def require_tokens(self) -> None:
        """Stop what asks about token ids where the rows hold something else.

        Raises:
            Skip: always then.
        """
        if self.content.role != TOKENS:
            raise Skip(f"the rows hold {self.content.role} ({self.content.words}), no token ids")

    def require_one_sequence(self) -> None:
        """Stop what asks about a row as one sequence of ``input_ids``.

        Raises:
            Skip: its ids lie in several columns, or are several sequences.
        """
        self.require_tokens()
        if not self.content.plain or self.reach is not None:
            what = f"the columns {self.content.words}" if not self.content.plain else "a nest"
            raise Skip(f"a row's ids lie in {what}: they are not one sequence of input_ids")

    @property
    def word(self) -> str:
        """Return what the rows hold, for a sentence."""
        return "ids" if self.content.role == TOKENS else self.content.role

    @property
    def sequences(self) -> Array:
        """Tokens of each row's longest sequence."""
        return self.lengths if self.reach is None else self.reach

    @property
    def name(self) -> str:
        """The dataset's name in the pipeline."""
        return self.rows.name

    @property
    def counted(self) -> str:
        """Return how many rows were read, in words."""
        return self.rows.sample or f"{len(self.rows):,} rows"

    def row(self, place: int) -> str:
        """The row at that place, in words."""
        return f"row {self.rows.number(place)} of {self.name}"

    def empty(self, added: int, special: Collection[int]) -> Array:
        """Places of rows without text: no token, or as many as are added, and those special."""
        import numpy

        places: Array = numpy.flatnonzero(self.lengths <= added)
        places = places[~numpy.isin(places, self.nulls)]
        text = [where[block.rows_with_others(special)] for where, block in self.blocks(places)]
        return places[~numpy.isin(places, joined(text))]

    @cached_property
    def histogram(self) -> Array:
        """Number of rows of each length from 0 to the longest, by their longest sequence."""
        import numpy

        lengths = self.sequences
        counted = numpy.zeros(int(lengths.max(initial=0)) + 1, numpy.int64)
        # Not all at once: bincount would copy them to 64 bits.
        for at in range(0, len(lengths), AT_ONCE):
            some = lengths[at : at + AT_ONCE]
            counted += numpy.bincount(some, minlength=len(counted))
        return counted

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return len(self.histogram) - 1

    @cached_property
    def shortest(self) -> int:
        """Tokens of the shortest row."""
        import numpy

        return int(numpy.argmax(self.histogram > 0))

    @cached_property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        import numpy

        if self.reach is not None:
            return int(self.lengths.sum(dtype=numpy.int64))
        return int(self.histogram @ numpy.arange(len(self.histogram)))

    def blocks(self, places: Array) -> Iterator[tuple[Array, Block]]:
        """Read some rows again, ids and mask alone."""
        if not len(places):
            return
        columns = stored_columns(self.content, self.rows.table.column_names)
        for where, batch in self.rows.blocks(columns, places):
            yield where, Block.of(batch, self.pad, self.name, self.content)

    @cached_property
    def padding(self) -> float:
        """Share of the stored positions that are padding."""
        import numpy

        if self.lengths is self.widths:
            return 0.0
        stored = int(self.widths.sum(dtype=numpy.int64))
        return 1 - self.tokens / stored if stored else 0.0


@dataclass(frozen=True, eq=False)
class Scan:
    """The rows of all datasets of a pipeline."""

    train: Split
    evals: tuple[Split, ...] = ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """The training data first."""
        return (self.train, *self.evals)


@measurement(Cost.STATIC)
def scan(pipeline: Pipeline) -> Scan:
    """Read every row's ids, mask and label once, or a stated sample of what has no columns."""
    from trainsanity.isolation.snapshot import preserved
    from trainsanity.measurements.batches.batch import quiet

    if pipeline.train_dataset is None:
        raise Skip("this pipeline has no train_dataset")
    with preserved(pipeline), quiet(pipeline):
        train = _split(pipeline, "train_dataset", pipeline.train_dataset)
        evals = pipeline.eval_dataset
        if not isinstance(evals, Mapping):
            named = {} if evals is None else {"eval_dataset": evals}
        else:
            named = {f"eval_dataset[{key!r}]": data for key, data in evals.items()}
        return Scan(train, tuple(_split(pipeline, name, data) for name, data in named.items()))


def _split(pipeline: Pipeline, name: str, dataset: Any) -> Split:
    rows = rows_of(name, rows_of_batches(pipeline, dataset))
    columns = list(rows.table.column_names)
    if not len(rows):
        if isinstance(dataset, Sized) and len(dataset):
            raise UsageError(
                f"{name} has {len(dataset)} rows, and they hold nothing: return a dictionary with "
                "the model's inputs for each"
            )
        raise UsageError(f"{name} is empty: pass rows, or None")
    label = pipeline.label_column(dict.fromkeys(columns))
    content = content_of(pipeline, rows.table.schema, label)
    if content is None or not content.plain:
        refuse_without_ids(pipeline, rows, columns, content)
    assert content is not None
    tally = _Tally(pipeline, rows, label, content)
    wanted = stored_columns(content, columns)
    if tally.labels is not None and tally.labels.is_list and label not in wanted:
        wanted.append(tally.labels.column)
    for column in wanted if content.role == TOKENS else ():
        refuse_unreadable(
            rows.table.column(column),
            f"{column} of {name}",
            # Labels may be maps: a spectrogram, tags of several kinds, those of each choice.
            nested=column == label or (column in (IDS, MASK) and _choices(rows) > 1),
        )
    done = reported = 0
    blocks = rows.blocks(wanted)
    while some := list(itertools.islice(blocks, AT_A_TIME)):
        tally.add(some)
        done += sum(len(batch) for _, batch in some)
        if pipeline.progress and (done - reported >= REPORT_EVERY or done == len(rows)):
            pipeline.progress(done, len(rows), f"reading {name}")
            reported = done
    return tally.split()


def _choices(rows: Rows) -> int:
    """Return how many lists of ids the first row has; 1 for a flat list."""
    first = rows.table.column(IDS)[0].as_py() if IDS in rows.table.column_names else None
    if isinstance(first, list) and first and isinstance(first[0], list):
        return len(first)
    return 1


class _Tally:
    """Accumulate blocks into a :class:`Split`."""

    def __init__(self, pipeline: Pipeline, rows: Rows, label: str | None, content: Content) -> None:
        n = len(rows)
        tokenizer = pipeline.tokenizer if content.role == TOKENS else None
        self.rows, self.content = rows, content
        self.reach: Array | None = None
        # One array as long as no padding is met.
        self.widths = self.lengths = self.spans = room(n, "int32")
        self.signatures = room(n, "uint64")
        self.longest = 0
        self.ends: list[Array | None] = [room(n, "int32"), room(n, "int32")]
        self.lowest: tuple[int, int] | None = None
        self.highest: tuple[int, int] | None = None
        ids = (getattr(tokenizer, f"{name}_token_id", None) for name in SPECIAL)
        self.special = {int(i): Special() for i in ids if i is not None}
        self.pad = getattr(tokenizer, "pad_token_id", None)
        self.nulls: list[Array] = []
        self.uneven: list[Array] = []
        self.labels = LabelTally(rows, label) if label is not None else None

    def add(self, batches: list[tuple[Any, Any]]) -> None:
        """Take in batches: first without their ids, then with them."""
        blocks = [Block.of(batch, self.pad, self.rows.name, self.content) for _, batch in batches]
        for block in blocks:
            if block.mask is not None:
                _ = block.probed
        for block in blocks:
            if self.content.role == TOKENS:
                _ = block.highest  # the probes find the ids where this left them
            _ = block.probes  # of an image no more is read than these
        for (places, batch), block in zip(batches, blocks, strict=True):
            self._add(places, batch, block)
        self._write(side_by_side([places for places, _ in batches]), blocks)

    def _add(self, places: Any, batch: Any, block: Block) -> None:
        """Note what few rows have."""
        ids = block.ids
        if ids.nulls is not None:
            self.nulls.append(places_of(places, ids.nulls))
        if block.uneven is not None:
            self.uneven.append(places_of(places, block.uneven))
        if self.labels is not None and self.labels.is_list and len(batch):
            self.labels.add(places, batch.column(self.labels.column), ids.lengths)
        if not len(ids.values) or self.content.role != TOKENS:
            return
        # A block without negative ids cannot lower a minimum of 0.
        if self.lowest is None or self.lowest[0] > 0 or block.highest[1]:
            lowest = int(ids.values.min())
            if self.lowest is None or lowest < self.lowest[0]:
                self.lowest = (lowest, self._place(places, block, ids.values.argmin()))
        if self.highest is None or block.highest[0] > self.highest[0]:
            self.highest = (block.highest[0], self._place(places, block, ids.values.argmax()))
        for special, found in self.special.items():
            found.add(special, block, places)

    def _write(self, places: Any, blocks: list[Block]) -> None:
        """Note what every row has."""
        import numpy

        widths = numpy.concatenate([block.ids.lengths for block in blocks])
        _, spans, lengths = map(
            numpy.concatenate, zip(*(block.extents for block in blocks), strict=True)
        )
        probes = numpy.concatenate([block.probes for block in blocks], axis=1)
        if self.lengths is self.widths and any(block.kept is not None for block in blocks):
            self.lengths, self.spans = self.widths.copy(), self.widths.copy()
        self.widths[places] = widths
        if blocks[0].reach is not None:
            if self.reach is None:
                self.reach = room(len(self.widths), "int32")
            self.reach[places] = numpy.concatenate([block.reach for block in blocks])
        if self.lengths is not self.widths:
            self.lengths[places], self.spans[places] = lengths, spans
        self.signatures[places] = signatures(probes, spans)
        self._write_ends(places, probes, lengths)

    def _write_ends(self, places: Any, probes: Array, lengths: Array) -> None:
        """Note them as long as all that are shorter than another row have the same."""
        if all(ends is None for ends in self.ends):
            return
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        shorter = (lengths > 0) & (lengths < self.longest)
        for side, ids in enumerate((probes[0], probes[-1])):
            ends, some = self.ends[side], ids[shorter]
            if ends is not None:
                ends[places] = ids
                if len(some) and (some != some[0]).any():
                    self.ends[side] = None

    def _place(self, places: Any, block: Block, at: Any) -> int:
        return int(places_of(places, block.holder(at)))

    def split(self) -> Split:
        refuse_negative(self.widths, f"input_ids of {self.rows.name}")
        return Split(
            self.rows,
            self.widths,
            self.lengths,
            self.spans,
            self.signatures,
            self.ends[0],
            self.ends[1],
            self.lowest,
            self.highest,
            self.special,
            joined(self.nulls),
            joined(self.uneven),
            self.labels.labels() if self.labels is not None else None,
            self.pad,
            self.content,
            self.reach,
        )
