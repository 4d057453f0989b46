"""Repairs of batches: what the collator made is mended before anybody sees it."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.repairs import CannotApply
from trainsanity.repairs.settings import changed

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

IGNORED = -100

COUNTED = ("completion_mask", "assistant_masks", "loss_mask")
"""Names under which collators say which tokens are targets."""

Change = Callable[[list[Any], Any], None]
"""Changes a batch in place; is given the rows that it was made of, too."""


@contextlib.contextmanager
def padding_unlabelled(pipeline: Pipeline) -> Iterator[None]:
    """Ignore labels, and count no targets, where the attention mask is 0."""

    def change(_: list[Any], batch: Any) -> None:
        labels, mask = batch.get("labels"), batch.get("attention_mask")
        if labels is not None and mask is not None and labels.shape == mask.shape:
            batch["labels"] = labels.masked_fill(mask == 0, IGNORED)
        for name in COUNTED:
            counted = batch.get(name)
            if counted is not None and mask is not None and counted.shape == mask.shape:
                batch[name] = counted.masked_fill(mask == 0, 0)

    with _mended(pipeline, change):
        yield


@contextlib.contextmanager
def ends_labelled(pipeline: Pipeline) -> Iterator[None]:
    """Have each row's last attended token be a target, if it is the tokenizer's EOS."""
    end = getattr(pipeline.tokenizer, "eos_token_id", None)
    if end is None:
        raise CannotApply("the tokenizer has no EOS")

    def change(rows: list[Any], batch: Any) -> None:
        labels, ids = batch.get("labels"), batch.get("input_ids")
        if labels is None or ids is None or labels.shape != ids.shape or len(rows) != len(ids):
            return
        labels = labels.clone()
        for k, row in enumerate(rows):
            start = _start(_ids_of(row), ids[k].tolist())
            last = None if start is None else start + len(_ids_of(row)) - 1
            if last is not None and ids[k, last] == end:
                labels[k, last] = end
        batch["labels"] = labels

    with _mended(pipeline, change):
        yield


@contextlib.contextmanager
def labels_as_ids(pipeline: Pipeline) -> Iterator[None]:
    """Make class ids of one-hot labels, and a single label of the task."""
    if pipeline.config is None:
        raise CannotApply("the model has no config")

    def change(_: list[Any], batch: Any) -> None:
        labels = batch.get("labels")
        if labels is not None and labels.ndim > 1:
            batch["labels"] = labels.argmax(-1)

    single = {"problem_type": "single_label_classification"}
    with changed(pipeline.config, **single), _mended(pipeline, change):
        yield


@contextlib.contextmanager
def mask_rebuilt(pipeline: Pipeline) -> Iterator[None]:
    """Make the attention mask of the rows' lengths, on the side where each row lies."""
    import torch

    def change(rows: list[Any], batch: Any) -> None:
        ids = batch.get("input_ids")
        if ids is None or len(rows) != len(ids):
            return
        mask = torch.zeros_like(ids)
        for k, row in enumerate(rows):
            own = _ids_of(row)
            start = _start(own, ids[k].tolist())
            if start is None:
                return  # another arrangement than row by row
            kept = row.get("attention_mask")
            ones = [1] * len(own) if kept is None else list(kept)
            mask[k, start : start + len(own)] = torch.tensor(ones, dtype=mask.dtype)
        batch["attention_mask"] = mask

    with _mended(pipeline, change):
        yield


@contextlib.contextmanager
def padding_filled(pipeline: Pipeline, value: int) -> Iterator[None]:
    """Fill the token ids with one value where the attention mask is 0."""

    def change(_: list[Any], batch: Any) -> None:
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if ids is not None and mask is not None and ids.shape == mask.shape:
            batch["input_ids"] = ids.masked_fill(mask == 0, value)

    with _mended(pipeline, change):
        yield


def _ids_of(row: Any) -> list[int]:
    return [int(i) for i in row["input_ids"]] if "input_ids" in row else []


def _start(own: list[int], padded: list[int]) -> int | None:
    """Return where a row begins among its padding; None if it is at neither end."""
    if own and padded[: len(own)] == own:
        return 0
    if own and padded[-len(own) :] == own:
        return len(padded) - len(own)
    return None


@contextlib.contextmanager
def _mended(pipeline: Pipeline, change: Change) -> Iterator[None]:
    collator = pipeline.data_collator
    if collator is None:
        raise CannotApply("this pipeline has no collator")
    mended = _with(collator, change)
    with contextlib.ExitStack() as stack:
        stack.enter_context(changed(pipeline, data_collator=mended))
        if pipeline.trainer is not None:
            stack.enter_context(changed(pipeline.trainer, data_collator=mended))
        yield


def _with(collator: Any, change: Change) -> Any:
    """Return a collator of the same class whose batches are changed."""

    def call(rows: Any, *args: Any, **kwargs: Any) -> Any:
        rows = list(rows)
        batch = collator(rows, *args, **kwargs)
        change(rows, batch)
        return batch

    if not hasattr(collator, "__dict__") or isinstance(collator, type(call)):
        return functools.wraps(collator)(call)
    cls = type(collator)
    # For whatever looks at its class it stays what it was.
    made = copy.copy(collator)
    methods = {"__call__": lambda self, *args, **kwargs: call(*args, **kwargs)}
    made.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})
    return made
