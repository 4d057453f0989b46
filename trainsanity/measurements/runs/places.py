"""The Trainer's own data loader over rows that know nothing but their places in the dataset."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PLACE = "place"


@contextmanager
def placed(pipeline: Pipeline) -> Iterator[Any]:
    """What ``get_train_dataloader`` returns, with batches ``{"place": tensor of places}``.

    No row is read and nothing is collated; only a sampler that looks at rows gets them.

    Raises:
        Skip: the loader collates by a function of its own.
    """

    def collate(rows: list[Any]) -> dict[str, Any]:
        import torch

        return {PLACE: torch.tensor([row[PLACE] for row in rows])}

    trainer = pipeline.trainer
    with preserved(pipeline), quiet(pipeline):
        rows = Rows(trainer.train_dataset)
        trainer.train_dataset = rows.dataset
        trainer.data_collator = collate
        in_this_process(trainer.args)
        # Which columns a row has does not matter here, and to remove some makes another dataset.
        trainer.args.remove_unused_columns = False
        loader = trainer.get_train_dataloader()
        if getattr(loader, "collate_fn", collate) is not collate:
            raise Skip("the data loader has a collate_fn of its own: what it reads is not seen")
        rows.hidden = True
        yield loader


def in_this_process(args: Any) -> None:
    """No workers: what they see they keep to themselves."""
    args.dataloader_num_workers = 0
    args.dataloader_prefetch_factor = None
    args.dataloader_persistent_workers = False


class Rows:
    """A dataset whose rows are not read while they are ``hidden``.

    Attributes:
        dataset: a shallow copy of the given one, of a class made from its class.
    """

    def __init__(self, data: Any) -> None:
        self.hidden = False
        kind: Any = type(data)

        def getitem(self_: Any, place: Any) -> Any:
            # A column is asked for by name.
            if self.hidden and hasattr(place, "__index__"):
                return _Row(data, operator.index(place) % len(data))
            return kind.__getitem__(self_, place)

        def getitems(self_: Any, places: Any) -> Any:
            return [getitem(self_, place) for place in places]

        methods: dict[str, Any] = {"__getitem__": getitem, "__getitems__": getitems}
        made = type(kind.__name__, (kind,), methods)
        if kind in (list, tuple):  # whose objects cannot change their class
            self.dataset = made(data)
        else:
            self.dataset = copy.copy(data)
            self.dataset.__class__ = made


class _Row(dict[str, Any]):
    """A place; the row there is read when one of its columns is asked for."""

    def __init__(self, data: Any, place: int) -> None:
        super().__init__({PLACE: place})
        self._data = data

    def __missing__(self, column: str) -> Any:
        return self._data[self[PLACE]][column]
