"""Token ids of a micro-batch, where rows hold texts and collator or loss tokenizes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session
from trainsanity.fields import TEXT
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Scan
    from trainsanity.pipeline import Pipeline

IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True)
class Collated:
    """The attended ids of one text of one row.

    Attributes:
        name: of the tensor that holds them, such as ``anchor_input_ids``.
        row: its place in the micro-batch.
        ids: those that the mask does not hide.
    """

    name: str
    row: int
    ids: list[int]


def collated_ids(pipeline: Pipeline, scan: Scan) -> list[Collated]:
    """Return the texts of a micro-batch as collator or loss tokenized them; none if neither did.

    What the collator raises is for the checks of the collator to tell.
    """
    import torch

    if scan.train.content.role != TEXT or pipeline.trainer is None:
        return []
    with preserved(pipeline), quiet(pipeline):
        try:
            batch = next(iter(pipeline.trainer.get_train_dataloader()), None)
        except Exception:
            return []
    found: list[Collated] = []
    if not isinstance(batch, Mapping):
        return found
    for name, ids in batch.items():
        if not (str(name).endswith(IDS) and torch.is_tensor(ids) and ids.dim() == 2):
            continue
        mask = batch.get(str(name).removesuffix(IDS) + MASK)
        kept = torch.ones_like(ids, dtype=torch.bool)
        if torch.is_tensor(mask) and mask.shape == ids.shape:
            kept = mask.bool()
        found += [
            Collated(str(name), k, row[here].tolist())
            for k, (row, here) in enumerate(zip(ids.cpu(), kept.cpu(), strict=True))
        ]
    return found or _of_the_loss(pipeline)


def _of_the_loss(pipeline: Pipeline) -> list[Collated]:
    """Return the rows of the first micro-batch as the loss tokenizes each of them alone."""
    try:
        batch = Session.of(pipeline).measurements.get("batch")
    except Skip:
        return []
    if not batch.by_loss:
        return []
    return [Collated(IDS, k, row[IDS]) for k, row in enumerate(batch.micro_batches[0].rows)]
