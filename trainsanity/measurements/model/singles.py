"""Rows alone against rows in a batch, with the noise that a correct model shows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import logits_of
from trainsanity.maths.tolerances import largest, logits_difference, most_noise
from trainsanity.measurements.batches.batch import Batch, prepared
from trainsanity.measurements.model.forward import Forward, without_labels
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
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
        unit: what roundings make of the logits, by one unit in the last place of the weights; 0
            where that was not asked.
        precision: in which dtype the model was asked.
    """

    rows: list[int]
    alone: Tensor
    batched: Tensor
    noise: float
    unit: float
    precision: Precision

    @property
    def size(self) -> float:
        """The largest absolute logit of the rows alone."""
        return float(self.alone.abs().max())

    @property
    def allowed(self) -> float:
        """Return the difference of logits that arithmetic explains."""
        return logits_difference(self.precision.dtype, self.noise, self.size, self.unit)

    @property
    def allowed_noise(self) -> float:
        """Return the noise that arithmetic explains."""
        return logits_difference(
            self.precision.dtype,
            most_noise(self.precision.dtype, self.size, self.unit),
            self.size,
            self.unit,
        )


@measurement(Cost.FORWARD, forwards=lambda pipeline: 8)
def singles(pipeline: Pipeline, batch: Batch, forward: Forward) -> Singles:
    """Ask for a few rows alone, in the batch and among copies of themselves; in float32.

    A row of tokens is collated by itself, without padding.  Sounds and features keep theirs: some
    models take it in by design, and padding is asked about by itself.  Where the model is trained
    in something else, the batches that hold the rows are asked again.
    """
    rows = [row for micro in batch for row in micro.rows]
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].get("input_ids", ())))
    count = min(ROWS, len(rows))
    picked = [by_length[round(k * (len(rows) - 1) / max(count - 1, 1))] for k in range(count)]
    return in_float32(pipeline, lambda asked: _compared(pipeline, batch, forward, picked, asked))


def _compared(
    pipeline: Pipeline, batch: Batch, forward: Forward, picked: list[int], asked: Asked
) -> Singles:
    import torch

    rows = [row for micro in batch for row in micro.rows]
    copies = len(batch.micro_batches[0].rows)

    def ask(chosen: list[int]) -> Tensor:
        made = _cut_out(batch, chosen)
        if made is None:
            own = pipeline.data_collator([copy.deepcopy(rows[i]) for i in chosen])
            made = without_labels(prepared(pipeline, own))
            # A collator that replaces tokens at random gives the model another row each time.
            made = _as_in_its_batch(batch, chosen, made) or made
        output = pipeline.model(**made)
        return _logits(output)

    alone, noise = [], 0.0
    for i in picked:
        single = ask([i])
        alone.append(single[0])
        noise = largest((noise, float((ask([i] * copies) - single).abs().max())))
    one = torch.stack(alone)
    with asked.nudged() as possible:
        effect = float((ask(picked[-1:])[0] - alone[-1]).abs().max()) if possible else 0.0
    batched = forward.logits[picked] if asked.trained else _batched(pipeline, batch, picked)
    unit = asked.roundings(effect, float(one.abs().max()))
    return Singles(picked, one, batched, noise, unit, asked.precision)


def _logits(output: Any) -> Tensor:
    logits: Tensor = logits_of(output).double().cpu()
    return logits


def _as_in_its_batch(
    batch: Batch, chosen: list[int], made: dict[str, Any]
) -> dict[str, Any] | None:
    """Return copies of a row's attended columns in its batch, where ``made`` has other tokens."""
    import torch

    micro, k = _place(batch, chosen[0])
    own = without_labels(micro.inputs)
    ids, mask = own.get("input_ids"), own.get("attention_mask")
    tokens, attended = made.get("input_ids"), made.get("attention_mask")
    if ids is None or tokens is None or mask is None or attended is None:
        return None
    if not ids.dim() == tokens.dim() == mask.dim() == attended.dim() == 2:
        return None
    keep = mask[k].bool()
    if torch.equal(tokens[0][attended[0].bool()], ids[k][keep]):
        return None
    if not all(torch.is_tensor(one) and one.shape[:2] == ids.shape for one in own.values()):
        return None
    return {name: torch.stack([one[k][keep]] * len(chosen)) for name, one in own.items()}


def _place(batch: Batch, row: int) -> tuple[Any, int]:
    """Return the micro-batch that a row lies in, and its place there."""
    first = 0
    for micro in batch:
        if row < first + len(micro.rows):
            return micro, row - first
        first += len(micro.rows)
    raise IndexError(row)


def _cut_out(batch: Batch, chosen: list[int]) -> dict[str, Any] | None:
    """Return copies of one row as it lies in its batch; None where the batch is one of tokens."""
    import torch

    micro, k = _place(batch, chosen[0])
    own, size = without_labels(micro.inputs), len(micro.rows)
    if "input_ids" in own or not all(
        torch.is_tensor(value) and value.dim() and len(value) == size for value in own.values()
    ):
        return None
    return {name: torch.stack([value[k]] * len(chosen)) for name, value in own.items()}


def _batched(pipeline: Pipeline, batch: Batch, picked: list[int]) -> Tensor:
    """Return the logits of these rows in their own micro-batches; others are not asked."""
    import torch

    found, first = {}, 0
    for micro in batch:
        places = range(first, first + len(micro.rows))
        if any(i in places for i in picked):
            logits = _logits(pipeline.model(**without_labels(micro.inputs)))
            found.update({i: logits[i - first] for i in picked if i in places})
        first += len(micro.rows)
    return torch.stack([found[i] for i in picked])
