"""Iterate the Trainer's own data loader over row indices in place of rows."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

INDEX = "index"
"""The one field of batches that are made of indices."""


@contextmanager
def index_loader(pipeline: Pipeline) -> Iterator[Any]:
    """Yield the loader of ``get_train_dataloader`` with batches ``{"index": tensor of indices}``.

    No row is read and nothing is collated, unless a sampler reads columns.

    Raises:
        Skip: the loader has its own collate_fn.
    """

    def indices(rows: list[Any]) -> dict[str, Any]:
        import torch

        return {INDEX: torch.tensor([row[INDEX] for row in rows])}

    trainer = pipeline.trainer
    with preserved(pipeline), quiet(pipeline):
        rows = HiddenRows(trainer.train_dataset)
        trainer.train_dataset = rows.dataset
        collate = trainer.data_collator = observed(
            trainer.data_collator, lambda _call, rows: indices(rows)
        )
        disable_workers(trainer.args)
        # Columns do not matter here, and removing some would make another dataset.
        trainer.args.remove_unused_columns = False
        loader = trainer.get_train_dataloader()
        if getattr(loader, "collate_fn", collate) is not collate:
            raise Skip("the data loader has its own collate_fn: which rows it reads is not known")
        rows.hidden = True
        yield loader


class HiddenRows:
    """A dataset that returns indices in place of rows while it is ``hidden``.

    Attributes:
        dataset: a shallow copy of the given one, whose class is a subclass of its class.
    """

    def __init__(self, data: Any) -> None:
        self.hidden = False
        kind: Any = type(data)

        def getitem(self_: Any, key: Any) -> Any:
            # A string asks for a column.
            if self.hidden and hasattr(key, "__index__"):
                return _LazyRow(data, operator.index(key) % len(data))
            return kind.__getitem__(self_, key)

        def getitems(self_: Any, keys: Any) -> Any:
            return [getitem(self_, key) for key in keys]

        methods: dict[str, Any] = {"__getitem__": getitem, "__getitems__": getitems}
        made = type(kind.__name__, (kind,), methods)
        if kind in (list, tuple):  # their objects cannot change their class
            self.dataset = made(data)
        else:
            self.dataset = copy.copy(data)
            self.dataset.__class__ = made


class _LazyRow(dict[str, Any]):
    """An index; the row is read when one of its columns is needed."""

    def __init__(self, data: Any, index: int) -> None:
        super().__init__({INDEX: index})
        self._data = data

    def __missing__(self, column: str) -> Any:
        return self._data[self[INDEX]][column]
