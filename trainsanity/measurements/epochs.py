"""Which rows two epochs read, and in which order."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..types import Cost, Skip
from .batch import quiet
from .state import preserved
from .store import measurement

if TYPE_CHECKING:
    from ..pipeline import Pipeline

EPOCHS = 2


@dataclass(frozen=True)
class Epochs:
    """The places of the rows in the dataset, as the Trainer's data loader reads them.

    Attributes:
        rows: how many the dataset has.
        read: for each epoch, in order.
        batch: rows in a full batch.
        drops_last: a last batch that is not full is left out.
        sampler: the class that chooses the rows.
        strategy: how the arguments ask for them: ``random``, ``group_by_length``, ``sequential``.
    """

    rows: int
    read: list[list[int]]
    batch: int
    drops_last: bool
    sampler: str
    strategy: str


@measurement(Cost.RUN)
def epochs(pipeline: Pipeline) -> Epochs:
    """Read two epochs from the Trainer's own data loader; rows are read, and not collated.

    Raises:
        Skip: there is no Trainer, or the rows have no places.
    """
    trainer, data = pipeline.trainer, pipeline.train_dataset
    if trainer is None:
        raise Skip("a loop of one's own chooses its rows itself")
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise Skip("the rows are a stream: it alone knows where an epoch ends and in which order")
    if pipeline.args.world_size > 1:
        raise Skip("judged in one process: run it once without torchrun")
    with preserved(pipeline), quiet(pipeline):
        places: list[int] = []
        trainer.train_dataset = _noting(data, places)
        trainer.data_collator = _count
        _in_this_process(trainer.args)
        # Which columns a row has does not matter here, and to remove some makes another dataset.
        trainer.args.remove_unused_columns = False
        loader = trainer.get_train_dataloader()
        read = []
        for epoch in range(EPOCHS):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            places.clear()  # of what the sampler looked at when it was made
            for _ in loader:
                _progress(pipeline, len(places), len(data))
            read.append([place % len(data) for place in places])
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return Epochs(
        len(data),
        read,
        trainer.args.train_batch_size,
        bool(trainer.args.dataloader_drop_last),
        type(sampler).__name__,
        _strategy(pipeline.args),
    )


def _strategy(args: Any) -> str:
    """``train_sampling_strategy`` of transformers 5, or ``group_by_length`` before."""
    if getattr(args, "group_by_length", False):
        return "group_by_length"
    return str(getattr(args, "train_sampling_strategy", "random"))


def _in_this_process(args: Any) -> None:
    args.dataloader_num_workers = 0
    args.dataloader_prefetch_factor = None
    args.dataloader_persistent_workers = False


def _count(rows: list[Any]) -> dict[str, Any]:
    import torch

    return {"rows": torch.zeros(len(rows))}


def _noting(data: Any, places: list[int]) -> Any:
    """The same dataset, of a class that notes which places are asked for."""
    import operator

    kind: Any = type(data)

    def note(place: Any) -> None:
        # A column is asked for by name.
        if hasattr(place, "__index__"):
            places.append(operator.index(place))

    def getitem(self: Any, place: Any) -> Any:
        note(place)
        return kind.__getitem__(self, place)

    def getitems(self: Any, several: Any) -> Any:
        for place in several:
            note(place)
        mark = len(places)
        rows = kind.__getitems__(self, several)
        del places[mark:]  # it may ask for them one by one
        return rows

    methods: dict[str, Any] = {"__getitem__": getitem}
    if hasattr(kind, "__getitems__"):
        methods["__getitems__"] = getitems
    noting = copy.copy(data)
    noting.__class__ = type(kind.__name__, (kind,), methods)
    return noting


def _progress(pipeline: Pipeline, done: int, of: int) -> None:
    if pipeline.progress is not None:
        pipeline.progress(done, of, "rows read")
