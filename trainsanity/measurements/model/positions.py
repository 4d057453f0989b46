"""One document with the batch's own ``position_ids``, and with those that the model makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import IDS, MASK, logits_of
from trainsanity.maths.tolerances import same_shape_difference, within
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import without_labels
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

POSITIONS = "position_ids"


@dataclass(frozen=True)
class Positions:
    """What another set of positions makes of a document's outputs.

    Attributes:
        first: the batch's position of the document's first token.
        tokens: its length.
        difference: greatest difference of the model's first output.
        size: its largest absolute value.
        precision: in which dtype the model was asked.
        unit: what roundings make of the output, by one unit in the last place of the weights; 0
            where the difference is so small that nobody asks.
    """

    first: int
    tokens: int
    difference: float
    size: float
    precision: Precision
    unit: float = 0.0

    @property
    def allowed(self) -> float:
        """Return the difference that arithmetic explains."""
        import torch

        eps = float(torch.finfo(self.precision.dtype).eps)
        return same_shape_difference(eps, self.size, self.unit)


@measurement(Cost.FORWARD)
def positions(pipeline: Pipeline, batch: Batch) -> Positions:
    """Ask for the longest document that lies by itself in the first micro-batch, in both ways.

    Raises:
        Skip: the batch has no positions, or none that count up over a whole document.
    """
    given = without_labels(batch.micro_batches[0].inputs)
    ids, places = given.get(IDS), given.get(POSITIONS)
    if ids is None or places is None or places.shape != ids.shape:
        raise Skip("the batch has no position_ids beside its tokens")
    mask = given.get(MASK)
    if mask is not None and mask.shape != ids.shape:
        raise Skip("the attention mask is not of tokens: documents are not read off it")
    row, begin, end = _longest(places, mask)
    if end - begin < 2:
        raise Skip("no position_ids count up over two tokens")
    one = {
        name: value[row : row + 1, begin:end].clone()
        for name, value in given.items()
        if getattr(value, "shape", None) == ids.shape
    }
    return in_float32(pipeline, lambda asked: _compared(pipeline, one, asked))


def _longest(places: Tensor, mask: Tensor | None) -> tuple[int, int, int]:
    """Return row, begin and end of the longest run of tokens whose positions count up.

    A run begins where a document does: with the first token of a row, or where positions fall back.
    Behind a jump upwards nobody says that it should count from another number.
    """
    best = (0, 0, 0)
    for row, numbers in enumerate(places.tolist()):
        attended = [True] * len(numbers) if mask is None else mask[row].bool().tolist()
        begin = 0
        for k in range(1, len(numbers) + 1):
            follows = k < len(numbers) and numbers[k] == numbers[k - 1] + 1
            if follows and attended[k] and attended[k - 1]:
                continue
            opens = not any(attended[:begin]) or numbers[begin] <= numbers[begin - 1]
            if k - begin > best[2] - best[1] and attended[begin] and opens:
                best = (row, begin, k)
            begin = k
    return best


def _compared(pipeline: Pipeline, one: dict[str, Any], asked: Asked) -> Positions:
    own = _output(pipeline, {name: value for name, value in one.items() if name != POSITIONS})
    given = _output(pipeline, one)
    found = Positions(
        int(one[POSITIONS][0, 0]),
        one[POSITIONS].shape[1],
        float((given - own).abs().max()),
        float(own.abs().max()),
        asked.precision,
    )
    if within(found.difference, found.allowed):
        return found
    with asked.nudged() as possible:
        moved = _output(pipeline, one) if possible else given
    return replace(found, unit=asked.roundings(float((moved - given).abs().max()), found.size))


def _output(pipeline: Pipeline, inputs: dict[str, Any]) -> Tensor:
    try:
        made = pipeline.model(**inputs)
    except (TypeError, ValueError, IndexError) as error:
        raise Skip(f"the model does not take the document: {first_line(error)}") from error
    logits = logits_of(made)
    first: Tensor = made[0] if logits is None else logits
    return first.double().cpu()
