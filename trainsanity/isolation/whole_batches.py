"""Datasets whose items are whole batches, which a data loader hands on as they are."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

from trainsanity.fields import is_indexable
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.random_states import first_row
from trainsanity.isolation.snapshot import preserved

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class Rows:
    """The rows in the batches of a dataset, one after the other."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        items = self.dataset
        if is_indexable(items):
            items = (self.dataset[k] for k in range(len(self.dataset)))
        for item in items:
            yield from _parts(item) or [item]


def rows_of_batches(pipeline: Pipeline, dataset: Any) -> Any:
    """Return a dataset of the single rows where the items are batches, else the dataset itself."""
    if (
        dataset is None
        or pipeline.trainer is None
        or not _overrides(pipeline)
        or not _not_batched(pipeline)
    ):
        return dataset
    return Rows(dataset) if _parts(first_row(dataset)) else dataset


def _overrides(pipeline: Pipeline) -> bool:
    """Return whether the data loader is made by code of the user's own."""
    return bool(own_methods(pipeline.trainer, ("get_train_dataloader",)))


_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
"""By Trainer: the loader is made once."""


def _not_batched(pipeline: Pipeline) -> bool:
    """Return whether the Trainer's own loader takes the items as they are: ``batch_size=None``."""
    if pipeline.trainer in _known:
        return _known[pipeline.trainer]
    with preserved(pipeline):
        try:
            loader = pipeline.trainer.get_train_dataloader()
        except Exception:  # the batch is drawn from it, too, and tells what it raised
            return False
    missing = object()
    sizes = [getattr(loader, name, missing) for name in ("batch_size", "batch_sampler")]
    _known[pipeline.trainer] = sizes == [None, None]
    return _known[pipeline.trainer]


def _parts(item: Any) -> list[dict[str, Any]]:
    """Return the rows of a batch: its tensors, cut along their first dimension."""
    if not isinstance(item, Mapping):
        return []
    named = {name: one for name, one in item.items() if getattr(one, "shape", ()) != ()}
    sizes = {len(one) for one in named.values() if isinstance(one, Sized)}
    if len(sizes) != 1:
        return []
    return [{name: one[k] for name, one in named.items()} for k in range(sizes.pop())]
