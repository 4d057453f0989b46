"""Which rows each of several processes reads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.places import PLACE, in_this_process, placed
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PEEK = 8
"""Batches of a stream that each process reads: what tells equal parts from different ones is in
the first, and a stream is read to be thrown away."""

SAMPLE = 16
"""Rows by which two datasets are told apart: of a part of the data none lies where it lay."""


@dataclass(frozen=True)
class Shares:
    """What each process reads of the data.

    Attributes:
        rows: by process, how many its dataset has; empty for a stream.
        same: all processes hold the same dataset, so that a place means the same row everywhere.
        read: by process; the places in the first epoch, or of a stream hashes of the first rows.
        batch: rows that all processes read for one micro-batch.
        drops_last: a last batch that is not full is left out.
    """

    rows: list[int]
    same: bool
    read: list[list[int]] = field(repr=False)
    batch: int
    drops_last: bool

    @property
    def stream(self) -> bool:
        """The rows have no places."""
        return not self.rows


@measurement(Cost.STATIC)
def shares(pipeline: Pipeline) -> Shares:
    """Have every process walk through an epoch of its own data loader; rows are not read.

    Of a stream each process reads the first batches.

    Raises:
        Skip: there is no Trainer, or its loader does not show which rows it reads.
    """
    args, data = pipeline.args, pipeline.train_dataset
    batch = args.train_batch_size * args.world_size
    drops_last = bool(args.dataloader_drop_last)
    if not is_indexable(data):
        return Shares([], False, all_gather(_stream(pipeline)), batch, drops_last)
    with preserved(pipeline):
        known = all_gather((len(data), _sample(data)))
    with placed(pipeline) as loader:
        places: list[int] = []
        for made in loader:
            places += made[PLACE].tolist()
            if pipeline.progress is not None:
                pipeline.progress(len(places), len(data) // args.world_size, "rows read")
    return Shares(
        [rows for rows, _ in known],
        all(one == known[0] for one in known),
        all_gather(places),
        batch,
        drops_last,
    )


def _sample(data: Any) -> list[int]:
    """Hashes of a few rows, spread over the data; none where rows are other ones each time."""
    raw = data.with_format(None) if hasattr(data, "with_format") else data
    places = range(0, len(data), max(1, len(data) // SAMPLE))
    once, again = ([_hash(raw[place]) for place in places] for _ in range(2))
    return once if once == again else []


def _stream(pipeline: Pipeline) -> list[int]:
    trainer = pipeline.trainer

    def collate(rows: list[Any]) -> dict[str, Any]:
        import torch

        return {PLACE: torch.tensor([_hash(row) for row in rows])}

    with preserved(pipeline), quiet(pipeline):
        trainer.data_collator = collate
        in_this_process(trainer.args)
        loader = trainer.get_train_dataloader()
        try:
            batches = [made[PLACE].tolist() for made in itertools.islice(loader, PEEK)]
        except KeyError:
            raise Skip("the data loader collates by a function of its own") from None
    return [row for made in batches for row in made]


def _hash(row: Any) -> int:
    """63 bits of what a row holds: a tensor of integers has a sign."""
    import xxhash

    text = repr(sorted(row.items())) if isinstance(row, dict) else repr(row)
    return int(xxhash.xxh3_64_intdigest(text.encode(errors="replace"))) >> 1
