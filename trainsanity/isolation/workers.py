"""Data loader workers, switched off while batches are observed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments


def disable_workers(args: TrainingArguments) -> None:
    """Have data loaded in this process: a worker keeps what it records to itself.

    :func:`~trainsanity.isolation.snapshot.preserved` restores the arguments.
    """
    args.dataloader_num_workers = 0
    args.dataloader_prefetch_factor = None
    args.dataloader_persistent_workers = False
