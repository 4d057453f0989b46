"""The micro-batches of the first optimizer step, beside the rows they were made from."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import UsageError
from trainsanity.isolation.fsdp import beside_model
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.maths.alignment import Placement, placements
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class MicroBatch:
    """What the collator returned, and the rows that it was given."""

    inputs: dict[str, Tensor]
    rows: list[dict[str, Any]]

    @cached_property
    def placements(self) -> list[Placement | None]:
        """Where each row lies in ``input_ids``; None where it is not there whole."""
        return placements(self.rows, self.inputs)

    @property
    def width(self) -> int:
        """The padded length."""
        return int(self.inputs["input_ids"].shape[-1])

    @property
    def lengths(self) -> list[int]:
        """Tokens per source row; those that the row's own mask hides are padding already."""
        return [attended(row)[1] for row in self.rows]


def attended(row: Mapping[str, Any]) -> tuple[int, int]:
    """``(last attended place, number of attended tokens)`` of a source row."""
    mask = list(row.get("attention_mask", ())) or [1] * len(row["input_ids"])
    return max((k for k, one in enumerate(mask) if one), default=-1), sum(map(bool, mask))


@dataclass(frozen=True)
class Batch:
    """All micro-batches of one optimizer step on this process."""

    micro_batches: list[MicroBatch]

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)

    @property
    def lengths(self) -> list[int]:
        """Tokens per source row, over all micro-batches."""
        return [n for micro in self for n in micro.lengths]


@measurement(Cost.STATIC)
def batch(pipeline: Pipeline) -> Batch:
    """Draw the first optimizer step's micro-batches from the Trainer's own data loader.

    A custom training loop has the first rows of its data collated.
    """
    trainer = pipeline.trainer
    if trainer is None:
        with preserved(pipeline), quiet(pipeline):
            return next(drawn(pipeline, 1))
    steps = trainer.args.gradient_accumulation_steps
    with preserved(pipeline), quiet(pipeline):
        calls = record_collator(trainer)
        inputs = []
        for collated in trainer.get_train_dataloader():
            inputs.append(beside_model(pipeline, trainer._prepare_inputs(collated)))
            if len(inputs) == steps:
                break
    if not inputs:
        raise UsageError("the Trainer's data loader yields no batch: give it at least one row")
    if not isinstance(inputs[0], Mapping) or "input_ids" not in inputs[0]:
        raise Skip("the batch has no input_ids: only token models are judged so far")
    if any("input_ids" not in row for rows in calls for row in rows):
        raise Skip("the collator is given rows without input_ids: they are not compared with it")
    refuse_unlabelled(trainer, inputs[0], calls[0][0])
    # The loader reads ahead: there may be more calls than batches.
    pairs = zip(inputs, calls[: len(inputs)], strict=True)
    return Batch([MicroBatch(dict(made), rows) for made, rows in pairs])


def drawn(pipeline: Pipeline, steps: int) -> Iterator[Batch]:
    """Yield micro-batches for the steps of a custom training loop, of rows in their order.

    Raises:
        UsageError: there are too few rows, or the collator returns no ``input_ids``.
        Skip: there is nothing to collate.
    """
    if pipeline.train_dataset is None or pipeline.data_collator is None:
        raise Skip("this pipeline has no train_dataset and data_collator to make a batch of")
    size, count = pipeline.args.train_batch_size, pipeline.args.gradient_accumulation_steps
    rows = _rows(pipeline.train_dataset)
    for number in range(steps):
        micros = []
        for _ in range(count):
            chosen = [dict(row) for row in itertools.islice(rows, size)]
            if len(chosen) < size:
                break
            made = pipeline.data_collator(copy.deepcopy(chosen))
            micros.append(MicroBatch(prepared(pipeline, made), chosen))
        if len(micros) < count:
            if number:
                return
            raise UsageError(
                f"train_dataset has too few rows for one optimizer step of {count} x {size}: "
                "pass more rows or a smaller batch"
            )
        yield Batch(micros)


def _rows(data: Any) -> Iterator[Any]:
    return iter(data) if hasattr(data, "__iter__") else (data[i] for i in range(len(data)))


def prepared(pipeline: Pipeline, made: Any) -> dict[str, Any]:
    """Return a collator's batch on the model's device, moved by the Trainer if there is one.

    Raises:
        UsageError: it is no mapping of names to tensors.
    """
    import torch

    if not isinstance(made, Mapping):
        raise UsageError(
            f"the data_collator returned {type(made).__name__}: return a dict of tensors"
        )
    if pipeline.trainer is not None:
        return dict(beside_model(pipeline, pipeline.trainer._prepare_inputs(made)))
    return {
        name: value.to(pipeline.device) if torch.is_tensor(value) else value
        for name, value in made.items()
    }


def refuse_unlabelled(trainer: Any, made: Collection[str], columns: Iterable[str]) -> None:
    """Refuse a batch without labels, unless ``compute_loss`` is the user's own.

    Raises:
        UsageError: it has none, and the stock ``compute_loss`` would have no loss.
    """
    from transformers import Trainer

    names = ("labels", *(trainer.label_names or ()))
    own_loss = type(trainer).compute_loss is not Trainer.compute_loss
    if own_loss or any(name in made for name in names):
        return
    raise UsageError(
        f"the batch has no labels (the collator is given rows with {', '.join(sorted(columns))}): "
        "name the column 'label' or 'labels', or set TrainingArguments(label_names=[...])"
    )


def record_collator(trainer: Any) -> list[list[dict[str, Any]]]:
    """Record the rows that the Trainer's collator is given; undone by :func:`preserved`."""
    calls: list[list[dict[str, Any]]] = []

    def recording(call: Callable[[Any], Any], rows: list[Any]) -> Any:
        calls.append([dict(row) for row in rows])
        # The dataset may keep its rows: a collator that changes them would change the user's.
        return call(copy.deepcopy(rows))

    trainer.data_collator = observed(trainer.data_collator, recording)
    disable_workers(trainer.args)
    return calls


@contextmanager
def quiet(pipeline: Pipeline) -> Iterator[None]:
    """Silence transformers' warnings while its parts are used in ways it warns about."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
