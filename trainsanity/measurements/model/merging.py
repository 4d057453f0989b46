"""Logits with an adapter merged into its base, beside those with both."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import in_parts
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.time_limit import deferred
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.adapters import Adapters, base_weight, is_tuner
from trainsanity.measurements.model.forward import as_trained, predicting
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 2
"""Rows that are asked."""

DELTAS = ("get_delta_weight", "get_merged_weights", "ia3_l")
"""Attributes of layers whose adapter is merged into the base's weight, its modules untouched."""

SMALL = 0.02
"""Standard deviation that the adapter's weights are drawn with where they are all alike, as a B of
zeros is: that of a new layer (``initializer_range``)."""


@dataclass(frozen=True)
class Merged:
    """Changes that merging the adapter makes.

    Attributes:
        change: greatest difference of a logit.
        noise: greatest difference when the merged weights are changed by their last place, as the
            rounding of a merged weight does.
        moved: by how much the adapter changes a logit, with weights drawn at random for this.
        largest: the largest logit.
        replicated: layers of one kind share a base weight and have an adapter each, which only
            their own forward can keep apart.
    """

    change: float
    noise: float
    moved: float
    largest: float
    replicated: bool = False


@measurement(Cost.FORWARD)
def merged(pipeline: Pipeline, adapters: Adapters, batch: Batch) -> Merged:
    """Draw the adapter's weights at random, ask a row, merge them into the base, and ask again.

    Raises:
        Skip: there is nothing that could be merged into weights of floats.
    """
    import torch

    model = pipeline.model
    if (away := not_in_memory(model)) is not None:
        raise Skip(away)
    if in_parts(model):
        raise Skip("each process holds a part of the weights, and merging adds to whole ones")
    if not adapters.layers or not callable(getattr(model, "merge_adapter", None)):
        raise Skip("there is no layer whose adapter could be merged")
    layers = [m for m in model.modules() if is_tuner(m)]
    if not all(any(hasattr(layer, name) for name in DELTAS) for layer in layers):
        raise Skip("what this kind of adapter merges are modules, and no weights")
    if not all(_is_float(layer) for layer in layers):
        raise Skip("the base weights are quantized, and merging rounds them")
    inputs = _first_rows(predicting(model, batch.micro_batches[0].inputs))
    # Weights of several dtypes meet under autocast alone, which rounds more than merging does.
    mixed = len({p.dtype for p in model.parameters() if p.is_floating_point()}) > 1
    with (
        preserved(pipeline, weights=True),
        _unmerged(layers),
        as_trained(pipeline, autocast=mixed),
    ):
        before = _logits(model, inputs)
        generators: dict[Any, Any] = {}

        def normal(like: Any) -> Any:
            # On the weight's own device: a host takes minutes to draw for billions of weights.
            own = generators.setdefault(like.device, torch.Generator(like.device).manual_seed(0))
            return torch.randn(like.shape, generator=own, device=like.device).to(like)

        for weight in _weights(layers, adapters.active):
            weight.add_(normal(weight) * (float(weight.float().std(correction=0)) or SMALL))
        both = _logits(model, inputs)
        try:
            with torch.autocast(pipeline.device.type, enabled=False):
                model.merge_adapter()
        except (NotImplementedError, ValueError, AttributeError, TypeError) as error:
            raise Skip(f"PEFT does not merge this kind of adapter: {error}") from error
        together = _logits(model, inputs)
        for layer in layers:
            weight = base_weight(layer)
            last_place = _eps(weight) * weight.abs()
            weight.add_(normal(weight).sign() * last_place)
        rounded = _logits(model, inputs)

    def apart(one: Any, other: Any) -> float:
        return float((one - other).abs().max())

    return Merged(
        apart(together, both),
        apart(rounded, together),
        apart(both, before),
        float(both.abs().max()),
        _replicated(layers),
    )


def _replicated(layers: list[Any]) -> bool:
    """Return whether a base weight belongs to several layers of one kind, none an embedding."""
    kinds: dict[int, list[type]] = {}
    for layer in layers:
        if (weight := base_weight(layer)) is not None:
            kinds.setdefault(weight.data_ptr(), []).append(type(layer))
    shared = [owners for owners in kinds.values() if len(owners) > 1]
    return bool(shared) and all(len({*owners}) == 1 for owners in shared)


NOTED = ("merged_adapters", "_caches")


@contextmanager
def _unmerged(layers: list[Any]) -> Iterator[None]:
    """Put back what PEFT notes of merging; the weights are put back by others."""
    state = [
        (layer, name, copy.copy(vars(layer)[name]))
        for layer in layers
        for name in NOTED
        if name in vars(layer)
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        with deferred():
            for layer, name, value in state:
                setattr(layer, name, value)


def _eps(weight: Any) -> float:
    """Return the last place, relative, of what a product is made with."""
    import torch

    dtypes = [weight.dtype]
    if torch.is_autocast_enabled(weight.device.type):
        dtypes.append(torch.get_autocast_dtype(weight.device.type))
    return max(float(torch.finfo(dtype).eps) for dtype in dtypes)


def _logits(model: Any, inputs: dict[str, Any]) -> Any:
    found = getattr(model(**inputs), "logits", None)
    if found is None:
        raise Skip("the model returns no logits")
    return found.float()


def _first_rows(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the first rows of all inputs; all rows where the inputs do not go by row."""
    import torch

    counts = {len(v) for v in inputs.values() if torch.is_tensor(v) and v.dim()}
    if len(counts) != 1 or not all(torch.is_tensor(v) and v.dim() for v in inputs.values()):
        return inputs
    return {name: value[:ROWS] for name, value in inputs.items()}


def _weights(layers: list[Any], active: list[str]) -> Iterator[Any]:
    """Yield the weights of the layers' active adapters."""
    for layer in layers:
        for kind in layer.adapter_layer_names:
            part = getattr(layer, kind, None)
            for name in active:
                if part is None or not hasattr(part, "keys") or name not in part:
                    continue
                one = part[name]
                yield from one.parameters() if hasattr(one, "parameters") else [one]


def _is_float(layer: Any) -> bool:
    weight = base_weight(layer)
    return weight is not None and weight.is_floating_point() and weight.element_size() > 1
