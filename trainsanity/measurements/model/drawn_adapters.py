"""The second side of LoRA's pairs: zeros, something learnt, or numbers drawn for a new layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import whole
from trainsanity.maths.norms import norm_of
from trainsanity.measurements.model.adapters import PAIRS, is_tuner
from trainsanity.pipeline import active_adapters
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class DrawnAdapters:
    """The ``lora_B`` of all active adapters together, each times the square root of its rank.

    torch draws the weights of a new linear layer uniformly between -1 and 1 over the root of the
    number of its inputs, which is the rank here.

    Attributes:
        elements: how many there are.
        zeros: how many of these are 0.
        largest: the greatest absolute value; 1 at the most if they were drawn so.
        deviation: the root of the mean square; 1 over the root of 3 if they were drawn so.
        changed: the greatest change of a layer's weight, relative to it.
    """

    elements: int
    zeros: int
    largest: float
    deviation: float
    changed: float

    @property
    def drawn(self) -> bool:
        """Return whether they are a draw of torch's for new layers, and nothing learnt."""
        error = 1 / math.sqrt(max(1, self.elements))  # of a mean square of uniform numbers
        near = abs(self.deviation - 1 / math.sqrt(3)) <= 3 * error
        return self.zeros == 0 and self.largest <= 1 + 1e-3 and near


@measurement(Cost.STATIC)
def drawn_adapters(pipeline: Pipeline) -> DrawnAdapters:
    """Read ``lora_B`` of every layer.

    Raises:
        Skip: there is no LoRA.
    """
    import torch

    values, changed = [], [0.0]
    for layer in pipeline.model.modules():
        if not is_tuner(layer):
            continue
        for first, second in PAIRS:
            for name in active_adapters(layer):
                a, b = (_weight(getattr(layer, side, {}), name) for side in (first, second))
                if a is None or b is None or a.is_meta or b.is_meta:
                    continue
                base = getattr(layer.get_base_layer(), "weight", b)
                # Of sharded weights all processes ask for the same ones at the same time.
                a, b = (whole(side).detach().float() for side in (a, b))
                values.append((b.flatten() * math.sqrt(min(b.shape))).cpu())
                scaling = float((getattr(layer, "scaling", None) or {}).get(name, 1.0))
                size = _norm(base)
                if first == "lora_A" and size:
                    changed.append(abs(scaling) * _norm_of_product(b, a) / size)
    if not values:
        raise Skip("the model has no LoRA")
    together = torch.cat(values)
    return DrawnAdapters(
        len(together),
        int((together == 0).sum()),
        float(together.abs().max()),
        float(together.square().mean().sqrt()),
        max(changed),
    )


def _norm(weight: Any) -> float:
    """Return a base weight's 2-norm; only ZeRO-3 has the weight gathered for it."""
    held = (whole(weight) if hasattr(weight, "ds_tensor") else weight).detach()
    # What is stored in bytes, as quantised weights are, has no norm of torch's.
    return float(whole(norm_of(held if held.dtype.itemsize > 1 else held.float())))


def _norm_of_product(b: Tensor, a: Tensor) -> float:
    """Return the 2-norm of ``b @ a``, which is as large as the layer, from products of the rank."""
    return float(((b.mT @ b) * (a @ a.mT)).sum().clamp(min=0).sqrt())


def _weight(side: Any, name: str) -> Any:
    part = side[name] if name in side else None  # noqa: SIM401 - ModuleDict has no get
    return getattr(part, "weight", part)
