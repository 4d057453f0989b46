"""Rows of the model's first call with less padding, whatever its arguments are called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.snapshot import preserved
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.measurements.model.forward import without_labels
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.measurements.step.called import named_call
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline

PROBED = ("input_ids", "attention_mask")
"""Names by which the probes of the model stage ask."""

SUMS = 32
"""Root of the thousand sums that are allowed, as in model.padding_is_not_pooled."""


@dataclass(frozen=True)
class HiddenPadding:
    """Outputs for rows with all of their padding, and with less.

    Attributes:
        mask: the name of the argument that hides padding; empty where the model is given none.
        floats: it is made of fractions 0 and 1.
        width: columns of the batch.
        narrower: columns that the rows were cut to.
        rows: how many were asked.
        row: the one that differs most.
        difference: greatest absolute difference of its outputs.
        size: largest absolute output.
        unit: what roundings make of the outputs, by one unit in the last place of the weights.
        mixes: the kind of layer that lets padding reach a text by design; empty if there is none.
        precision: in which dtype the model was asked.
    """

    mask: str
    floats: bool
    width: int
    narrower: int
    rows: int
    row: int
    difference: float
    size: float
    unit: float
    mixes: str
    precision: Precision

    @property
    def allowed(self) -> float:
        """Return the difference that arithmetic explains."""
        import torch

        eps = float(torch.finfo(self.precision.dtype).eps)
        return MARGIN * self.unit + SUMS * (MARGIN * eps + REDUCTIONS) * self.size


@measurement(Cost.STEP)
def hidden_padding(pipeline: Pipeline, batch: Batch) -> HiddenPadding:
    """Cut padding off the model's first call, and compare the outputs of its rows.

    Raises:
        Skip: the call has no mask beside values with the same fill in all places that it hides, the
            padding is a part of the rows, or the model takes no narrower rows.
    """
    # A step of offloaded weights, which hooks bring in, cannot be recorded.
    if any(parameter.is_meta for parameter in pipeline.model.parameters()):
        raise Skip(not_in_memory(pipeline.model) or "weights are not in memory")
    recording: Recording = Session.of(pipeline).measurements.get("recording")
    if recording.model_call is None:
        raise Skip("the model was not called as a module")
    asked = without_labels(named_call(pipeline, recording.model_call))
    if all(name in asked for name in PROBED):
        raise Skip("model.padding_invariance asks models that name input_ids and attention_mask")
    found = _mask_of(asked) or _without_mask(pipeline, asked)
    if found is None:
        raise Skip("no argument of the model's call hides padding of others")
    name, seen = found
    width = seen.shape[1]
    if name and _stored_so(pipeline, batch, width):
        raise Skip("the rows are padded to one width before they come into a batch")
    with preserved(pipeline, weights=True), quiet(pipeline):
        return in_float32(pipeline, lambda way: _compared(pipeline, asked, name, seen, way))


def _mask_of(asked: dict[str, Any]) -> tuple[str, Tensor] | None:
    """Return the mask's name and where it shows a row, ``[B, L]``, or None.

    A mask has two values, and shows one piece of a row that reaches to one of its ends.  Which of
    the two hides is told by the others: all that is hidden in one of them is one value.
    """
    import torch

    for name, value in asked.items():
        if not torch.is_tensor(value) or value.dim() < 2 or value.is_complex():
            continue
        rows, width = value.shape[0], value.shape[-1]
        if value.numel() != rows * width or rows < 2 or width < 2:
            continue
        flat = value.reshape(rows, width)
        values = flat.unique()
        if len(values) != 2:
            continue
        for shown in values:
            seen = flat == shown
            if _at_an_end(seen) and _hides(asked, name, seen):
                return name, seen
    return None


def _without_mask(pipeline: Pipeline, asked: dict[str, Any]) -> tuple[str, Tensor] | None:
    """Return no name, and where a row is, if rows end in padding and the model is given no mask.

    None where its forward takes no mask, where the id of the padding ends texts as well or stands
    inside of them, and where no row is padded.
    """
    import torch

    tokenizer = pipeline.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    others = {
        getattr(tokenizer, f"{kind}_token_id", None) for kind in ("eos", "bos", "unk", "sep", "cls")
    }
    takes = inspect.signature(unwrapped(pipeline.model).forward).parameters
    masks = [name for name in takes if "mask" in name]
    if pad is None or pad in others or not masks or any(name in asked for name in masks):
        return None
    for value in asked.values():
        if not torch.is_tensor(value) or value.dim() != 2 or value.is_floating_point():
            continue
        seen = value != pad
        if value.shape[1] > 1 and bool((~seen).any()) and _at_an_end(seen):
            return "", seen
    return None


def _at_an_end(seen: Tensor) -> bool:
    """Return whether each row is one piece, and all begin, or all end, at the batch's side."""
    pieces = (seen[:, 1:] != seen[:, :-1]).sum(1)
    one = bool((pieces <= 1).all()) and bool(seen.any(1).all())
    return one and (bool(seen[:, 0].all()) or bool(seen[:, -1].all()))


def _hides(asked: dict[str, Any], name: str, seen: Tensor) -> bool:
    """Return whether the values in hidden places are all one, and those that are shown are not."""
    partners = [v for k, v in asked.items() if k != name and _goes_along(v, seen)]
    if not partners:
        return False
    for value in partners:
        hidden, shown = value[~seen], value[seen]
        if not bool((hidden == hidden[:1]).all()) or bool((shown == shown[:1]).all()):
            return False
    return True


def _goes_along(value: Any, seen: Tensor) -> bool:
    return hasattr(value, "shape") and tuple(value.shape[:2]) == tuple(seen.shape)


def _stored_so(pipeline: Pipeline, batch: Batch, width: int) -> bool:
    """Return whether all rows have the batch's width before they are collated."""
    if getattr(pipeline.data_collator, "padding", None) == "max_length":
        return True
    rows = batch.sources
    names = [k for k, v in rows[0].items() if hasattr(v, "__len__")] if rows else []
    return any(all(len(row.get(name, ())) == width for row in rows) for name in names)


def _compared(
    pipeline: Pipeline, asked: dict[str, Any], name: str, seen: Tensor, way: Asked
) -> HiddenPadding:
    lengths = seen.sum(1)
    width = seen.shape[1]
    chosen = (lengths < width).nonzero().flatten()
    if not len(chosen):
        raise Skip("no row of the model's first call is padded")
    narrower = int(lengths[chosen].max())
    right = bool(seen[:, 0].all())
    cut = slice(0, narrower) if right else slice(width - narrower, width)
    own = {k: _of(v, chosen, len(seen)) for k, v in asked.items()}
    less = {k: _narrow(v, k == name, seen[chosen], cut) for k, v in own.items()}
    whole, small = _outputs(pipeline, own), _outputs(pipeline, less)
    shown = seen[chosen]
    moved = _moved(whole, small, shown, cut)
    with way.nudged() as possible:
        nudged = _outputs(pipeline, own) if possible else whole
    size = float(whole.abs().max())
    row = max(range(len(moved)), key=lambda k: (math.isnan(moved[k]), moved[k]))
    mask = asked.get(name)
    return HiddenPadding(
        name,
        mask is not None and bool(mask.is_floating_point() and ((mask == 0) | (mask == 1)).all()),
        width,
        narrower,
        len(chosen),
        int(chosen[row]),
        moved[row],
        size,
        way.roundings(float((nudged - whole).abs().max()), size),
        _mixing(pipeline),
        way.precision,
    )


def _of(value: Any, chosen: Tensor, size: int) -> Any:
    if not hasattr(value, "shape") or not value.ndim or len(value) != size:
        return value
    return value[chosen]


def _narrow(value: Any, is_mask: bool, seen: Tensor, cut: slice) -> Any:
    if is_mask:
        return value[..., cut]
    return value[:, cut] if _goes_along(value, seen) else value


def _outputs(pipeline: Pipeline, inputs: dict[str, Any]) -> Tensor:
    import torch

    try:
        made = pipeline.model(**inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it ran on the training batch: this is not what it was made for
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise Skip(f"the model does not take rows with less padding: {problem}") from error
    values = made.values() if isinstance(made, Mapping) else made
    values = [values] if torch.is_tensor(values) else list(values)
    found = next((v for v in values if torch.is_tensor(v) and v.is_floating_point() and v.dim()
                  >= 2), None)  # fmt: skip
    if found is None:
        raise Skip("the model returns no tensor with an entry for each row")
    return found.detach().double().cpu()


def _moved(whole: Tensor, small: Tensor, shown: Tensor, cut: slice) -> list[float]:
    """Return by row how far outputs with less padding are from those with all of it.

    Raises:
        Skip: they are neither one vector a row nor one for each of its places.
    """
    rows, width = shown.shape
    narrow = cut.stop - cut.start
    if len(whole) == len(small) == rows and whole.shape == small.shape and whole.shape[1] != width:
        return [float((a - b).abs().max()) for a, b in zip(whole, small, strict=True)]
    if tuple(whole.shape[:2]) == (rows, width) and tuple(small.shape[:2]) == (rows, narrow):
        own = shown[:, cut].cpu()
        return [
            float((a[cut][k] - b[k]).abs().max()) for a, b, k in zip(whole, small, own, strict=True)
        ]
    raise Skip("the model's outputs are neither one a row nor one for each place of it")


def _mixing(pipeline: Pipeline) -> str:
    """Return the kind of a layer that reads padding by design: no mask reaches it."""
    import torch

    kinds = (
        torch.nn.RNNBase,
        torch.nn.modules.conv._ConvNd,
        torch.nn.modules.batchnorm._NormBase,
        torch.nn.GroupNorm,
    )
    for one in pipeline.model.modules():
        if isinstance(one, kinds):
            return type(one).__name__
    return ""
