"""Rows alone against rows in a batch, with the noise that a correct model shows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.maths.tolerances import largest
from trainsanity.measurements.batches.batch import Batch, prepared
from trainsanity.measurements.model.forward import Forward, as_trained, without_labels
from trainsanity.types import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ROWS = 4
"""Rows looked at: the shortest and longest of the batch and those between in even steps."""


@dataclass(frozen=True)
class Singles:
    """Logits of the same rows, asked three ways; each ``[R, C]`` float64 on the CPU.

    Attributes:
        rows: places in the batch of ``forward``.
        alone: each row collated by itself.
        batched: the same rows inside the training batch.
        noise: largest difference between a row alone and the same row in a batch of copies of
            itself: no padding, so a correct model differs by arithmetic alone.
    """

    rows: list[int]
    alone: Tensor
    batched: Tensor
    noise: float


@measurement(Cost.FORWARD)
def singles(pipeline: Pipeline, batch: Batch, forward: Forward) -> Singles:
    """Ask for a few rows alone, in the batch and among copies of themselves."""
    import torch

    rows = [row for micro in batch for row in micro.rows]
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].get("input_ids", ())))
    count = min(ROWS, len(rows))
    picked = [by_length[round(k * (len(rows) - 1) / max(count - 1, 1))] for k in range(count)]
    copies = len(batch.micro_batches[0].rows)

    def ask(chosen: list[int]) -> Tensor:
        made = pipeline.data_collator([copy.deepcopy(rows[i]) for i in chosen])
        output = pipeline.model(**without_labels(prepared(pipeline, made)))
        logits: Tensor = output.logits.double().cpu()
        return logits

    alone, noise = [], 0.0
    with as_trained(pipeline):
        for i in picked:
            single = ask([i])
            alone.append(single[0])
            noise = largest((noise, float((ask([i] * copies) - single).abs().max())))
    return Singles(picked, torch.stack(alone), forward.logits[picked], noise)
