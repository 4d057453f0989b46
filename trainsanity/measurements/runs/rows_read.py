"""Which rows the batches of a run were made of, and whether making a batch draws random numbers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.random_states import random_states, reseed
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.batch_hash import hash_of
from trainsanity.measurements.runs.order import fingerprint

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PENDING = "_trainsanity_sources"
"""The attribute of a data loader's iterator that holds the sources of batches on their way."""


@dataclass(frozen=True)
class Source:
    """What a data loader made one batch of.

    Attributes:
        dataset: the loader's.
        keys: the rows' indices; for a stream their positions.
        stream: the rows are a stream's.
        collate: the loader's collate_fn.
    """

    dataset: Any
    keys: Sequence[Any]
    stream: bool
    collate: Any

    def rows(self) -> list[Any]:
        """Read the rows again."""
        if self.stream:
            return list(itertools.islice(self.dataset, self.keys[0], self.keys[-1] + 1))
        if hasattr(self.dataset, "__getitems__"):
            return list(self.dataset.__getitems__(list(self.keys)))
        return [self.dataset[key] for key in self.keys]

    @property
    def owners(self) -> list[Any]:
        """The objects that may hold a generator of their own."""
        transform = (getattr(self.dataset, "_format_kwargs", None) or {}).get("transform")
        inner = getattr(self.collate, "data_collator", None)  # of one that removes columns
        every = (self.dataset, transform, self.collate, inner)
        return [one for one in every if one is not None]


@contextmanager
def sources_noted() -> Iterator[dict[str, Source]]:
    """Yield a dictionary that is filled with the sources of batches, by their :func:`.hash_of`.

    Batches of a stream that worker processes read are left out, and those of loaders that batch
    no rows or are none of torch's own.
    """
    from torch.utils.data import _DatasetKind
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    noted: dict[str, Source] = {}
    kind: Any = _BaseDataLoaderIter
    next_index, following = kind._next_index, kind.__next__

    def choosing(self: Any) -> Any:
        index = next_index(self)
        pending, read = self.__dict__.setdefault(PENDING, (deque(), [0]))
        stream = self._dataset_kind == _DatasetKind.Iterable
        keys: Any = list(index) if isinstance(index, list | tuple) else [index]
        if stream:
            keys = range(read[0], read[0] + len(keys))
            read[0] += len(keys)
        pending.append(Source(self._dataset, keys, stream, self._collate_fn))
        return index

    def handing_out(self: Any) -> Any:
        made = following(self)
        pending, _ = self.__dict__.get(PENDING, (None, None))
        if pending:
            source = pending.popleft()
            if self._auto_collation and not (source.stream and self._num_workers):
                noted[hash_of(made)] = source
        return made

    kind._next_index, kind.__next__ = choosing, handing_out
    try:
        yield noted
    finally:
        kind._next_index, kind.__next__ = next_index, following


def rows_of(
    pipeline: Pipeline, batches: Mapping[int, Sequence[str]], sources: Mapping[str, Source]
) -> dict[int, list[str]]:
    """Return a fingerprint of the rows of each batch, equal in every process that reads them.

    Rows are read with the same random numbers, so that what a dataset draws is no difference.  It
    is empty where it is not known which rows they are.
    """
    found: dict[int, list[str]] = {}
    for step, names in batches.items():
        for name in names:
            source, told = sources.get(name), ""
            if source is not None:
                with preserved(pipeline), quiet(pipeline):
                    reseed(0)
                    told = " ".join(map(fingerprint, source.rows()))
            found.setdefault(step, []).append(told)
    return found


def draws(pipeline: Pipeline, source: Source) -> bool:
    """Return whether making the batch draws, from the process's generators or from their own.

    It does if the same numbers make the same batch twice, and others make another, those of
    generators that the dataset or the collator hold among them.
    """

    def made() -> str:
        return hash_of(source.collate(source.rows()))

    with preserved(pipeline), quiet(pipeline):
        held = [random_states(one) for one in source.owners]

        def again(seed: int) -> str:
            for restore in held:
                restore()
            reseed(seed)
            return made()

        first = again(0)
        if again(0) != first:
            return False  # it counts its calls, for one
        if again(1) != first:
            return True
        reseed(0)
        return made() != first
