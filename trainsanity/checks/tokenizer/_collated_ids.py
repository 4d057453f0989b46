"""Token ids of the first step's batch, where rows hold texts and the collator tokenizes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session

if TYPE_CHECKING:
    from trainsanity.measurements.batches.batch import Batch
    from trainsanity.pipeline import Pipeline

IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True)
class Collated:
    """The attended ids of one text of one row.

    Attributes:
        name: of the tensor that holds them, such as ``anchor_input_ids``.
        row: its place in the first step.
        ids: those that the mask does not hide.
    """

    name: str
    row: int
    ids: list[int]


def collated_ids(pipeline: Pipeline) -> list[Collated]:
    """Return the texts of the first step as the collator tokenized them; none if it did not."""
    import torch

    batch: Batch = Session.of(pipeline).measurements.get("batch")
    found, first = [], 0
    for micro in batch:
        size = 0
        for name, ids in micro.inputs.items():
            if not (name.endswith(IDS) and torch.is_tensor(ids) and ids.dim() == 2):
                continue
            mask = micro.inputs.get(name.removesuffix(IDS) + MASK)
            masked = torch.is_tensor(mask) and mask.shape == ids.shape
            kept = mask.bool() if masked else torch.ones_like(ids, dtype=torch.bool)
            size = max(size, len(ids))
            found += [
                Collated(name, first + k, row[here].tolist())
                for k, (row, here) in enumerate(zip(ids.cpu(), kept.cpu(), strict=True))
            ]
        first += size
    return found
