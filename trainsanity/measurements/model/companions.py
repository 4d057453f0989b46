"""Rows of a batch with other rows beside them, and without padding, whatever the model takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.fsdp import beside_model
from trainsanity.isolation.snapshot import preserved
from trainsanity.maths.tolerances import (
    MARGIN,
    REDUCTIONS,
    largest,
    same_shape_difference,
    within,
)
from trainsanity.measurements.batches.batch import prepared, quiet, record_collator, shared
from trainsanity.measurements.model.forward import without_labels
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ROWS = 4
"""Rows that are asked: the first of the batch."""

WIDE = 2
"""Dimensions of an output that has one vector a row; more have positions, which padding moves."""


@dataclass
class Companions:
    """The first output of the model for a few rows, asked in several ways.

    Attributes:
        size: largest absolute value of the outputs.
        no_numbers: how many of the outputs are NaN or infinite; those of minus infinity apart,
            which mark outputs that cannot occur.
        outputs: how many there are.
        beside_copies: by row, the greatest difference between a row in its batch and the same
            tensors in a batch of copies of it: one shape, other neighbours.
        unpadded: by row that is padded in its batch, the difference between the row there and the
            row collated alone; empty where rows are not padded, or outputs are no vectors.
        masked: the same with a mask over the padding, where the batch has none and the model takes
            one.
        normed: by row, the layer that normalises over a row's positions and so takes its padding
            in: what it is given for the row's own positions is the same with and without padding,
            and what it makes of them is not. No mask reaches such a layer.
        shapes: largest difference that the shape alone makes: a row alone and among copies of
            itself, without padding.
        unit: what roundings make of the outputs, by one unit in the last place of the weights; 0
            where the rows differ by so little that nobody asks.
        precision: in which dtype the model was asked.
        mask: name of the mask that the batch has; empty if it has none.
    """

    size: float
    beside_copies: list[float]
    unpadded: dict[int, float] = field(default_factory=dict)
    masked: dict[int, float] = field(default_factory=dict)
    normed: dict[int, str] = field(default_factory=dict)
    shapes: float = 0.0
    unit: float = 0.0
    mask: str = ""
    precision: Precision | None = None
    no_numbers: int = 0
    outputs: int = 0

    @property
    def eps(self) -> float:
        """Unit in the last place of the dtype that the outputs are computed in."""
        import torch

        return math.nan if self.precision is None else float(torch.finfo(self.precision.dtype).eps)

    @property
    def most_moved(self) -> tuple[int, float]:
        """Return the row that differs most from itself among copies, and by how much; NaN first."""
        rows = enumerate(self.beside_copies)
        return max(rows, key=lambda one: (math.isnan(one[1]), one[1]))

    @property
    def allowed(self) -> float:
        """Return the difference between neighbours that arithmetic explains."""
        return same_shape_difference(self.eps, self.size, self.unit)


@measurement(Cost.FORWARD)
def companions(pipeline: Pipeline) -> Companions:
    """Ask a few rows of the first micro-batch beside other rows, and without padding.

    Raises:
        Skip: there is no Trainer, the batch's tensors do not agree on the number of rows, or the
            model returns no tensor with an entry for each, or does not take the batch as it is.
    """
    import torch

    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("this pipeline has no Trainer whose batches could be asked")
    with preserved(pipeline), quiet(pipeline):
        calls = record_collator(trainer)
        collated = next(iter(trainer.get_train_dataloader()), None)
        inputs = trainer._prepare_inputs(collated) if isinstance(collated, Mapping) else None
        rows = calls[0] if calls else []
        [(inputs, rows)] = shared(pipeline, [(beside_model(pipeline, inputs), rows)])
    tensors = {name: v for name, v in (inputs or {}).items() if torch.is_tensor(v) and v.dim()}
    sizes = {len(value) for value in tensors.values()}
    if inputs is None or len(sizes) != 1:
        raise Skip("the batch is no dictionary of tensors with an entry for each row")
    size = sizes.pop()
    if size < 2:
        raise Skip("a batch of one row has no other rows beside it")
    labelled = dict(inputs)
    own = without_labels(labelled)

    def ask(way: Asked) -> Companions:
        try:
            return compared(pipeline, own, rows, size, way)
        except Skip:
            if len(own) == len(labelled):
                raise
            # Some make the loss in any case: a row's own labels change nothing for the others.
            return compared(pipeline, labelled, [], size, way)

    return in_float32(pipeline, ask)


def compared(
    pipeline: Pipeline, asked: dict[str, Any], rows: list[Any], size: int, way: Asked
) -> Companions:
    """Return what the model says of rows beside others, by the arguments that it is called with.

    Args:
        pipeline: whose model.
        asked: arguments by name.
        rows: as the collator was given them; empty where padding is not asked about.
        size: how many rows there are.
        way: how the model is asked in float32.
    """
    import torch

    try:
        whole = _first(pipeline, asked, size)
    except Skip:
        raise
    except Exception as error:
        # chosen_input_ids and the like: the loss makes of them what the model is given.
        raise Skip(f"the model does not take the batch as it is: {first_line(error)}") from error
    no_numbers = int((whole.isnan() | (whole == math.inf)).sum())
    if no_numbers:  # which says all that there is to say
        return Companions(math.nan, [math.nan], no_numbers=no_numbers, outputs=whole.numel(),
                          precision=way.precision)  # fmt: skip
    chosen = range(min(ROWS, size))
    beside = [_apart(_first(pipeline, _copies(asked, k, size), size)[k], whole[k]) for k in chosen]
    # Some draw random numbers in eval mode, too: a masked autoencoder does. With the same ones for
    # each place of the batch rows can be compared; where that is not enough nothing can be said.
    apart = max(beside) > MARGIN * REDUCTIONS * float(whole.abs().max())
    if apart and not torch.equal(_first(pipeline, asked, size, seed=1), whole):
        raise Skip("the model draws random numbers in eval mode: rows are not comparable")
    found = Companions(
        float(whole.abs().max()),
        beside,
        mask=next((name for name, v in asked.items() if "mask" in name and hasattr(v, "dim")), ""),
        outputs=whole.numel(),
    )
    # Token models are asked about padding in more ways by the probes.
    if whole.dim() == WIDE and len(rows) == size and "input_ids" not in asked:
        _without_padding(pipeline, found, whole, asked, rows)
    found.precision = way.precision
    # Of many layers more than of one sum: what a unit of the weights does tells how much.
    if not within(largest(beside), found.allowed):
        with way.nudged() as possible:
            moved = _first(pipeline, asked, size) if possible else whole
        found.unit = way.roundings(float((moved - whole).abs().max()), found.size)
    return found


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the greatest difference of what both have: outputs may be as long as the longest row.

    Packed sequences come back without the columns that no row of the batch has reached.
    """
    if one.dim() == other.dim():
        common = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
        one, other = one[common], other[common]
    return float((one - other).abs().max())


def _without_padding(
    pipeline: Pipeline, found: Companions, whole: Tensor, asked: dict[str, Any], rows: list[Any]
) -> None:
    import torch

    main = _main_input(pipeline, asked)
    width = asked[main].shape[-1] if main and asked[main].dim() == WIDE else 0
    shapes = 0.0
    for k in range(len(found.beside_copies)):
        if not width:
            return
        made = pipeline.data_collator([copy.deepcopy(rows[k])])
        single = without_labels(prepared(pipeline, made))
        length = single[main].shape[-1]
        alone = _first(pipeline, single, 1)[0]
        if length < width:
            found.normed.update(_normalised(pipeline, asked, single, k))
        again = pipeline.data_collator([copy.deepcopy(rows[k])] * len(whole))
        copies = _first(pipeline, without_labels(prepared(pipeline, again)), len(whole))[0]
        shapes = max(shapes, float((alone - copies).abs().max()))
        if length >= width:
            continue
        found.unpadded[k] = float((alone - whole[k]).abs().max())
        if not found.mask and _takes_a_mask(pipeline):
            mask = torch.ones_like(asked[main], dtype=torch.long)
            mask[k, length:] = 0
            masked = _first(pipeline, {**asked, "attention_mask": mask}, len(whole))[k]
            found.masked[k] = float((alone - masked).abs().max())
    found.shapes = shapes


def _normalised(
    pipeline: Pipeline, asked: dict[str, Any], single: dict[str, Any], k: int
) -> dict[int, str]:
    """Return row k's first layer of normalisation over positions that takes its padding in."""
    from torch import nn

    kinds = (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
    layers = [name for name, m in pipeline.model.named_modules() if isinstance(m, kinds)]
    if not layers:
        return {}
    beside = _seen_by(pipeline, layers, asked, k)
    alone = _seen_by(pipeline, layers, single, 0)
    for name in layers:
        if name not in beside or name not in alone:
            continue
        # A convolution before it may see the end of the row: the half before that is compared.
        half = max(1, alone[name][0].shape[-1] // 2)
        pairs = zip(alone[name], beside[name], strict=True)
        given, made = ((one[..., :half] - two[..., :half]).abs().max() for one, two in pairs)
        if float(given) <= MARGIN * REDUCTIONS * float(alone[name][0].abs().max()) < float(made):
            return {k: name}
    return {}


def _seen_by(
    pipeline: Pipeline, layers: list[str], inputs: dict[str, Any], k: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return input and output of each layer for row k, by the layer's name."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Any:
        def hook(_: Any, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen.setdefault(name, (given[0][k], made[k]))

        return hook

    hooks = [pipeline.model.get_submodule(n).register_forward_hook(note(n)) for n in layers]
    try:
        pipeline.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _main_input(pipeline: Pipeline, asked: dict[str, Any]) -> str:
    name = getattr(pipeline.model, "main_input_name", "")
    return name if name in asked else ""


def _takes_a_mask(pipeline: Pipeline) -> bool:
    import inspect

    return "attention_mask" in inspect.signature(pipeline.model.forward).parameters


def _copies(inputs: dict[str, Any], k: int, size: int) -> dict[str, Any]:
    import torch

    return {
        name: value[k : k + 1].expand(size, *value.shape[1:]).contiguous()
        if torch.is_tensor(value) and value.dim() and len(value) == size
        else value
        for name, value in inputs.items()
    }


def _first(pipeline: Pipeline, inputs: dict[str, Any], size: int, seed: int = 0) -> Tensor:
    """Return the first output with an entry for each row, float64 on the CPU.

    The same seed gives the same random numbers to a model that draws some.
    """
    import torch

    torch.manual_seed(seed)
    output = pipeline.model(**inputs)
    values = output.values() if isinstance(output, Mapping) else output
    values = [values] if torch.is_tensor(values) else values
    for value in values:
        # A square output holds every pair of rows, as that of a contrastive model does.
        if (
            torch.is_tensor(value)
            and value.is_floating_point()
            and value.dim()
            and len(value) == size
            and (value.dim() != WIDE or value.shape[1] != size or size == 1)
        ):
            return value.double().cpu()
    raise Skip("the model returns no tensor with an entry for each row")
