"""Record which rows two epochs read, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.measurements.runs.row_indices import INDEX, index_loader
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

EPOCHS = 2


@dataclass(frozen=True)
class Epochs:
    """The indices of the rows that the Trainer's data loader reads.

    Attributes:
        rows: the number of rows in the dataset.
        read: the indices read in each epoch, in order.
        batch: rows in a full batch.
        drops_last: whether a last batch that is not full is left out.
        sampler: the class that chooses the rows.
        strategy: the sampling that the arguments ask for: ``random``, ``group_by_length`` or
            ``sequential``.
    """

    rows: int
    read: list[list[int]]
    batch: int
    drops_last: bool
    sampler: str
    strategy: str


@measurement(Cost.RUN)
def epochs(pipeline: Pipeline) -> Epochs:
    """Iterate the Trainer's own data loader over two epochs; rows are chosen, and not read.

    Raises:
        Skip: there is no Trainer, or the rows have no indices.
    """
    data = pipeline.train_dataset
    if pipeline.trainer is None:
        raise Skip("a custom training loop chooses its rows itself")
    if not is_indexable(data):
        raise Skip("the rows are a stream: their order and the end of an epoch are not known")
    if pipeline.other_processes:
        raise Skip("orders are judged in one process; TS910 judges what several read together")
    with index_loader(pipeline) as loader:
        read = []
        for epoch in range(EPOCHS):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            indices: list[int] = []
            for batch in loader:
                indices += batch[INDEX].tolist()
                _progress(pipeline, len(indices), len(data))
            read.append(indices)
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
    """Return ``train_sampling_strategy`` of transformers 5, or ``group_by_length`` before."""
    if getattr(args, "group_by_length", False):
        return "group_by_length"
    return str(getattr(args, "train_sampling_strategy", "random"))


def _progress(pipeline: Pipeline, done: int, of: int) -> None:
    if pipeline.progress is not None:
        pipeline.progress(done, of, "rows read")
