"""Which rows ``predict()`` reads, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.measurements.runs.row_indices import INDEX, HiddenRows
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BATCHES = 3


@dataclass(frozen=True)
class ReadInEvaluation:
    """Places of rows in a dataset of so many ``rows``, as two of the Trainer's loaders read them.

    Attributes:
        rows: the first ones of the evaluation data: some full batches, and as large a last one as
            the whole of it has.
        predicted: in the order in which ``predict()`` reads them.
        evaluated: in that of ``evaluate()``.
        sampler: the class that chooses them for ``predict()``.
        drops_last: ``dataloader_drop_last``.
    """

    rows: int
    predicted: list[int]
    evaluated: list[int]
    sampler: str
    drops_last: bool


@measurement(Cost.STATIC)
def read_in_evaluation(pipeline: Pipeline) -> ReadInEvaluation:
    """Read the loaders of ``predict()`` and ``evaluate()``; rows are chosen, not collated.

    Raises:
        Skip: there is no Trainer, or the rows have no places.
    """
    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop has no predict()")
    if pipeline.other_processes:
        raise Skip("what several processes predict is gathered by the Trainer")
    data = trainer.eval_dataset
    if isinstance(data, Mapping):
        data = next(iter(data.values()), None)
    if data is None or not is_indexable(data) or not len(data):
        raise Skip("there is no evaluation data with numbered rows")
    size = trainer.args.eval_batch_size
    count = min(len(data), BATCHES * size + len(data) % size)
    if not hasattr(data, "select") and not isinstance(data, list) and count < len(data):
        raise Skip(f"{type(data).__name__} cannot be cut to its first rows")

    def indices(rows: list[Any]) -> dict[str, Any]:
        import torch

        return {INDEX: torch.tensor([row[INDEX] for row in rows])}

    with preserved(pipeline), quiet(pipeline):
        first = data if count == len(data) else _first(data, count)
        rows = HiddenRows(first)
        collate = trainer.data_collator = observed(
            trainer.data_collator, lambda _call, rows: indices(rows)
        )
        disable_workers(trainer.args)
        trainer.args.remove_unused_columns = False
        loaders = [trainer.get_test_dataloader(rows.dataset)]
        loaders.append(trainer.get_eval_dataloader(rows.dataset))
        rows.hidden = True  # samplers have asked for lengths by now
        (predicted, sampler), (evaluated, _) = (_read(one, collate) for one in loaders)
    drops_last = bool(trainer.args.dataloader_drop_last)
    return ReadInEvaluation(count, predicted, evaluated, sampler, drops_last)


def _first(data: Any, count: int) -> Any:
    return data.select(range(count)) if hasattr(data, "select") else data[:count]


def _read(loader: Any, collate: Any) -> tuple[list[int], str]:
    if getattr(loader, "collate_fn", collate) is not collate:
        raise Skip("the data loader has a collate_fn of its own: what it reads is not seen")
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    places = [place for batch in loader for place in batch[INDEX].tolist()]
    return places, type(sampler).__name__
