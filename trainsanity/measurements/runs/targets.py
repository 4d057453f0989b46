"""How many targets the first batches have, as the Trainer's own loader makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BATCHES = 32


@dataclass
class Targets:
    """Counts for each batch.

    Attributes:
        counts: labels that the loss counts.
        tokens: tokens that are attended.
        masks: those of them that are the mask token.
        rows: of each batch.
    """

    counts: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


@measurement(Cost.STATIC)
def targets(pipeline: Pipeline) -> Targets:
    """Draw the first batches and count their targets.

    Raises:
        Skip: there is no Trainer, or the labels are not one for each token.
    """
    import torch

    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop makes its batches itself")
    if pipeline.other_processes:
        raise Skip("targets are counted in one process")
    seen, shifts = Targets(), objective_of(pipeline).shifts
    mask = getattr(pipeline.tokenizer, "mask_token_id", None)
    with preserved(pipeline), quiet(pipeline):
        disable_workers(trainer.args)
        for number, batch in enumerate(trainer.get_train_dataloader()):
            labels = batch.get("labels") if isinstance(batch, Mapping) else None
            ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
            if not torch.is_tensor(labels) or labels.dim() != 2 or labels.is_floating_point():
                raise Skip("the labels are not one for each token")
            counted = labels[:, 1:] if shifts else labels
            seen.counts.append(int((counted != IGNORED).sum()))
            attended = batch.get("attention_mask")
            if torch.is_tensor(attended) and attended.shape == labels.shape:
                seen.tokens.append(int(attended.sum()))
            else:
                seen.tokens.append(labels.numel())
            seen.masks.append(int((ids == mask).sum()) if ids is not None and mask else 0)
            seen.rows.append(len(labels))
            if number + 1 == BATCHES:
                break
    if not seen.counts:
        raise Skip("the loader yields no batch")
    return seen
