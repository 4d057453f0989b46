"""Logits with an adapter merged into its base, beside those with both."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.model.adapters import Adapters, base_weight, is_tuner
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 2
"""Rows that are asked."""

DELTAS = ("get_delta_weight", "get_merged_weights", "ia3_l")
"""What layers have whose adapter is merged into the base's weight, and leaves its modules alone."""

SMALL = 0.02
"""Standard deviation that the adapter's weights are drawn with where they are all alike, as a B of
zeros is: that of a new layer (``initializer_range``)."""


@dataclass(frozen=True)
class Merged:
    """What merging changes.

    Attributes:
        change: greatest difference of a logit.
        noise: greatest difference when the merged weights are changed by their last place, as the
            rounding of a merged weight does.
        moved: by how much the adapter changes a logit, with weights drawn at random for this.
        largest: the largest logit.
    """

    change: float
    noise: float
    moved: float
    largest: float


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
    if not adapters.layers or not callable(getattr(model, "merge_adapter", None)):
        raise Skip("there is no layer whose adapter could be merged")
    layers = [m for m in model.modules() if is_tuner(m)]
    if not all(any(hasattr(layer, name) for name in DELTAS) for layer in layers):
        raise Skip("what this kind of adapter merges are modules, and no weights")
    if not all(_is_float(layer) for layer in layers):
        raise Skip("the base weights are quantized, and merging rounds them")
    inputs = {name: value[:ROWS] for name, value in batch.micro_batches[0].inputs.items()
              if name in ("input_ids", "attention_mask", "token_type_ids")}  # fmt: skip
    with preserved(pipeline, weights=True), quiet(pipeline), torch.no_grad(), _unmerged(layers):
        align_special_tokens(pipeline)  # a head that pools looks for PAD
        model.eval()
        before = _logits(model, inputs)
        generator = torch.Generator().manual_seed(0)

        def normal(like: Any) -> Any:
            return torch.randn(like.shape, generator=generator).to(like)

        for weight in _weights(layers, adapters.active):
            weight.add_(normal(weight) * (float(weight.float().std(correction=0)) or SMALL))
        both = _logits(model, inputs)
        try:
            model.merge_adapter()
        except (NotImplementedError, ValueError, AttributeError, TypeError) as error:
            raise Skip(f"PEFT does not merge this kind of adapter: {error}") from error
        together = _logits(model, inputs)
        for layer in layers:
            weight = base_weight(layer)
            last_place = torch.finfo(weight.dtype).eps * weight.abs()
            weight.add_(normal(weight).sign() * last_place)
        rounded = _logits(model, inputs)

    def apart(one: Any, other: Any) -> float:
        return float((one - other).abs().max())

    return Merged(
        apart(together, both),
        apart(rounded, together),
        apart(both, before),
        float(both.abs().max()),
    )


class _unmerged:  # noqa: N801 - a context manager
    """Put back what PEFT notes of merging; the weights are put back by others."""

    NOTED = ("merged_adapters", "_caches")

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    def __enter__(self) -> None:
        self.state = [
            (layer, name, copy.copy(vars(layer)[name]))
            for layer in self.layers
            for name in self.NOTED
            if name in vars(layer)
        ]
        self.filters = warnings.catch_warnings()
        self.filters.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        for layer, name, value in self.state:
            setattr(layer, name, value)
        self.filters.__exit__(*error)


def _logits(model: Any, inputs: dict[str, Any]) -> Any:
    found = getattr(model(**inputs), "logits", None)
    if found is None:
        raise Skip("the model returns no logits")
    return found.float()


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
