"""Which rows two epochs read, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.measurements.runs.places import PLACE, placed
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

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
    """Read two epochs from the Trainer's own data loader; rows are chosen, and not read.

    Raises:
        Skip: there is no Trainer, or the rows have no places.
    """
    data = pipeline.train_dataset
    if pipeline.trainer is None:
        raise Skip("a loop of one's own chooses its rows itself")
    if not is_indexable(data):
        raise Skip("the rows are a stream: it alone knows where an epoch ends and in which order")
    if pipeline.other_processes:
        raise Skip("what the processes read together is TS910's; orders are judged in one process")
    with placed(pipeline) as loader:
        read = []
        for epoch in range(EPOCHS):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            places: list[int] = []
            for batch in loader:
                places += batch[PLACE].tolist()
                _progress(pipeline, len(places), len(data))
            read.append(places)
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return Epochs(
        len(data),
        read,
        pipeline.args.train_batch_size,
        bool(pipeline.args.dataloader_drop_last),
        type(sampler).__name__,
        _strategy(pipeline.args),
    )


def _strategy(args: Any) -> str:
    """``train_sampling_strategy`` of transformers 5, or ``group_by_length`` before."""
    if getattr(args, "group_by_length", False):
        return "group_by_length"
    return str(getattr(args, "train_sampling_strategy", "random"))


def _progress(pipeline: Pipeline, done: int, of: int) -> None:
    if pipeline.progress is not None:
        pipeline.progress(done, of, "rows read")
