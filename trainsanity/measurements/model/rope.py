"""Rotary position frequencies, beside what their formula gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

BUFFER = "inv_freq"
SHOWN = 4
UNITS = 16
"""Roundings of a power, a quotient and a reciprocal in float32, with room for one more step."""


@dataclass(frozen=True)
class Frequencies:
    """One buffer against its formula.

    Attributes:
        name: of the buffer, as in ``named_buffers()``.
        seen, expected: the first of them.
        error: largest relative difference; infinite where the lengths differ.
        allowed: what rounding explains.
        dtype: of the buffer.
    """

    name: str
    seen: list[float]
    expected: list[float]
    error: float
    allowed: float
    dtype: str


@dataclass(frozen=True)
class Rope:
    """The model's rotary buffers; ``unknown`` are those whose formula is not known."""

    buffers: list[Frequencies]
    unknown: list[str]


@measurement(Cost.STATIC)
def rope(pipeline: Pipeline) -> Rope:
    """Find every ``inv_freq`` and compute it anew from the config of the module that holds it.

    Raises:
        Skip: there is none, none with a formula, or they are not in memory.
    """
    buffers, unknown = [], []
    for name, module, key in _found(pipeline.model):
        buffer = getattr(module, key)
        if buffer.is_meta:
            raise Skip("rotary frequencies are offloaded: their values are not in memory")
        kind = key.removesuffix(BUFFER).rstrip("_") or None
        formula = _formula(module, kind, len(buffer))
        if formula is None:
            unknown.append(name)
        else:
            values, scaling = formula
            buffers.append(_compared(name, buffer, values, _scaling_error(module, kind, scaling)))
    if not buffers and unknown:
        raise Skip(f"no formula is known for {', '.join(unknown)}")
    if not buffers:
        raise Skip("the model has no rotary positions")
    return Rope(buffers, unknown)


def _found(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Rotary buffers; those kept to come back to after a longer text begin with "original"."""
    for path, module in model.named_modules():
        for key, buffer in module.named_buffers(recurse=False):
            if key.endswith(BUFFER) and "original" not in key and buffer.dim() == 1:
                yield f"{path}.{key}".lstrip("."), module, key


def _formula(module: Any, kind: str | None, size: int) -> tuple[Tensor, float] | None:
    """``theta^(-2i/d)``, or transformers' function for a scaled kind; and the scaling."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = getattr(module, "config", None)
    parameters = _parameters(config, kind)
    if parameters is None:
        return None
    name = parameters.get("rope_type") or parameters.get("type") or "default"
    if name == "default":
        theta = parameters.get("rope_theta")
        if theta is None:
            return None
        steps = torch.arange(size, dtype=torch.float64) / size
        return float(theta) ** -steps, 1.0
    if name not in ROPE_INIT_FUNCTIONS:
        return None
    more = {} if kind is None else {"layer_type": kind}
    values, scaling = ROPE_INIT_FUNCTIONS[name](config, torch.device("cpu"), **more)
    return values.double(), float(scaling)


def _parameters(config: Any, kind: str | None) -> Mapping[str, Any] | None:
    """``rope_parameters`` (by kind of layer where there are several), or what they were called."""
    found = getattr(config, "rope_parameters", None)
    if isinstance(found, Mapping):
        if kind is not None:
            inner = found.get(kind)
            return inner if isinstance(inner, Mapping) else None
        # By kind of layer, but held in a buffer that names none.
        return None if any(isinstance(one, Mapping) for one in found.values()) else found
    theta = getattr(config, "rope_theta", None)
    # Before 5.x a second kind of layer had a theta under another name, in a copy of the config.
    if theta is None or kind is not None:
        return None
    return {"rope_theta": theta, **(getattr(config, "rope_scaling", None) or {})}


def _scaling_error(module: Any, kind: str | None, expected: float) -> float:
    own = getattr(module, f"{kind}_attention_scaling" if kind else "attention_scaling", None)
    return 0.0 if own is None else abs(float(own) / expected - 1)


def _compared(name: str, buffer: Tensor, expected: Tensor, scaling_error: float) -> Frequencies:
    import torch

    seen = buffer.detach().double().cpu()
    eps, single = torch.finfo(buffer.dtype).eps, torch.finfo(torch.float32).eps
    error = math.inf
    if seen.shape == expected.shape:
        nought = expected == 0  # some scaled kinds leave a part unrotated
        error = float(((seen - expected) / expected.masked_fill(nought, 1.0)).abs().max())
    return Frequencies(
        name,
        seen[:SHOWN].tolist(),
        expected[:SHOWN].tolist(),
        error if math.isnan(error) else max(error, scaling_error),
        UNITS * single if eps <= single else float(eps),
        str(buffer.dtype).removeprefix("torch."),
    )
