"""In which order rows are read: by class, by epoch, by worker."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.runs.row_indices import INDEX, index_loader
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 512
"""Rows that are read in their order: enough for the classes in it to be told from chance."""

OBJECTS = 2_000
"""Objects that are looked through for a stream inside the stream."""


@dataclass
class Order:
    """The order of the first rows, as the Trainer's own loader reads them.

    Attributes:
        rows: how many were read.
        stream: they are no rows with numbers.
        repeats: the run reads a stream more than once.
        equal: how many rows of the second epoch of a stream are those of the first, place by place.
        untold: the class of a stream inside the stream that never hears of the epoch; or empty.
        classes: how many there are in the data.
        changes: how often the class changes from one row to the next.
        expected_changes: how often it would in a random order.
        sampler: the class that chooses the rows.
    """

    rows: int = 0
    stream: bool = False
    repeats: bool = False
    equal: int = 0
    untold: str = ""
    classes: int = 0
    changes: int = 0
    expected_changes: float = 0.0
    sampler: str = ""


@measurement(Cost.STATIC)
def order(pipeline: Pipeline) -> Order:
    """Read the first rows, of a stream in two epochs.

    Raises:
        Skip: there is no Trainer, or its order is that of lengths.
    """
    trainer, data = pipeline.trainer, pipeline.train_dataset
    if trainer is None:
        raise Skip("a custom training loop chooses its rows itself")
    if pipeline.other_processes:
        raise Skip("orders are judged in one process")
    if not is_indexable(data):
        with preserved(pipeline):
            return _of_stream(pipeline)
    if str(getattr(trainer.args, "train_sampling_strategy", "")) == "group_by_length" or getattr(
        trainer.args, "group_by_length", False
    ):
        raise Skip("the order is that of lengths, as the arguments ask for")
    labels = _labels(pipeline)
    with index_loader(pipeline) as loader:
        places: list[int] = []
        for batch in loader:
            places += batch[INDEX].tolist()
            if len(places) >= ROWS:
                break
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    seen = Order(rows=len(places), sampler=type(sampler).__name__)
    if labels is not None:
        _count_changes(seen, [labels[place] for place in places], labels)
    return seen


def _labels(pipeline: Pipeline) -> list[Any] | None:
    """Return the column of labels, one hashable value a row; None if there is none."""
    data = pipeline.train_dataset
    names = getattr(data, "column_names", None)
    if not names or not hasattr(data, "with_format"):
        return None
    column = next((n for n in ("label", "labels", "label_ids") if n in names), None)
    if column is None or getattr(data, "_format_type", None) == "custom":
        return None
    values = list(data.with_format(None)[column])
    return values if all(isinstance(value, int | str) for value in values[:ROWS]) else None


def _count_changes(seen: Order, read: list[Any], labels: list[Any]) -> None:
    from collections import Counter

    counts = Counter(labels)
    seen.classes = len(counts)
    same = sum((count / len(labels)) ** 2 for count in counts.values())
    seen.changes = sum(a != b for a, b in itertools.pairwise(read))
    seen.expected_changes = (len(read) - 1) * (1 - same)


def _of_stream(pipeline: Pipeline) -> Order:
    args, data = pipeline.args, pipeline.train_dataset
    wanted = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps
    most = min(ROWS, max(0, wanted)) or ROWS
    before = _epoch(data)
    try:
        read = []
        for epoch in range(2):
            if hasattr(data, "set_epoch"):
                data.set_epoch(epoch)
            read.append([fingerprint(row) for row in itertools.islice(data, most + 1)])
        untold = _untold(data)
    finally:
        if hasattr(data, "set_epoch"):
            data.set_epoch(before)
    first, second = read
    return Order(
        rows=len(first),
        stream=True,
        repeats=len(first) <= most and len(first) < wanted,
        equal=sum(a == b for a, b in zip(first, second, strict=False)),
        untold=untold,
        sampler=type(data).__name__,
    )


def _epoch(data: Any) -> int:
    epoch = next((vars(data)[n] for n in ("_epoch", "epoch") if n in vars(data)), 0)
    return int(epoch) if epoch is not None else 0


def _untold(data: Any) -> str:
    """Return the class of a shuffled stream that is read by this one and is still in epoch 0."""
    known, queue = {id(data)}, [data]
    for thing in queue:
        if len(queue) > OBJECTS:
            break
        for inner in _parts(thing):
            if id(inner) in known or isinstance(inner, type | ModuleType | str | bytes | int):
                continue
            known.add(id(inner))
            queue.append(inner)
            shuffled = getattr(inner, "_shuffling", True) is not None
            stream = hasattr(inner, "set_epoch") and hasattr(inner, "__iter__")
            # The last epoch that the outer one was told is 1.
            if stream and shuffled and _epoch(inner) == 0:
                return type(inner).__name__
    return ""


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from thing.__defaults__ or ()
    elif isinstance(thing, dict | list | tuple):
        if len(thing) < 64:
            yield from thing.values() if isinstance(thing, dict) else thing
    elif hasattr(thing, "__dict__"):
        yield from vars(thing).values()
    elif isinstance(thing, Iterator):
        yield from gc.get_referents(thing)


def fingerprint(row: Any) -> str:
    """Return a hash of what a row holds."""
    import xxhash

    digest = xxhash.xxh3_64()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif hasattr(value, "tolist") and hasattr(value, "shape"):
            digest.update(repr(value.tolist()).encode())
        elif hasattr(value, "tobytes"):
            digest.update(value.tobytes())
        else:
            digest.update(repr(value).encode())

    add(row)
    return digest.hexdigest()


@dataclass
class WorkerShares:
    """Rows that each worker reads of a stream.

    Attributes:
        workers: how many there are.
        rows: the first ones of the first worker.
        twice: those of them that the second one reads, too.
    """

    workers: int
    rows: int = 0
    twice: int = 0


@measurement(Cost.STATIC)
def worker_shares(pipeline: Pipeline) -> WorkerShares:
    """Read a stream as two of the data loader's workers would, without starting any.

    Raises:
        Skip: there are fewer than two workers, or rows have numbers.
    """
    data, workers = pipeline.train_dataset, pipeline.args.dataloader_num_workers
    if workers < 2:
        raise Skip(f"the data loader has {workers} workers: a stream is read by one process")
    if is_indexable(data):
        raise Skip("rows have numbers: the sampler gives each to one worker")
    read = []
    with preserved(pipeline):
        for number in range(2):
            with _as_worker(data, number, workers):
                read.append([fingerprint(row) for row in itertools.islice(data, ROWS)])
    first, second = read
    twice = len(set(first) & set(second))
    return WorkerShares(workers, len(set(first)), twice)


@contextmanager
def _as_worker(data: Any, number: int, workers: int) -> Iterator[None]:
    """Let ``get_worker_info`` answer as in that worker of the data loader."""
    from torch.utils.data._utils import worker

    before = worker._worker_info
    worker._worker_info = worker.WorkerInfo(
        id=number, num_workers=workers, seed=number, dataset=data
    )
    try:
        yield
    finally:
        worker._worker_info = before
