"""Where the weights are: in memory as they were trained, quantised, or somewhere else."""

from __future__ import annotations

from typing import Any

from trainsanity.pipeline import unwrapped

AWAY = ("cpu", "disk", "meta")


def not_in_memory(model: Any) -> str | None:
    """Why the weights cannot be compared as they are, in words; None if they can."""
    inner = unwrapped(model)
    config = getattr(inner, "config", None)
    quantized = getattr(inner, "hf_quantizer", None) or getattr(config, "quantization_config", None)
    if quantized is not None or getattr(inner, "is_quantized", False):
        return "the weights are quantised: their values are not the checkpoint's"
    places = {str(place) for place in (getattr(inner, "hf_device_map", None) or {}).values()}
    away = sorted(places & set(AWAY)) if places - {"cpu"} else []
    if away:
        return f"weights are offloaded to {' and '.join(away)}: their values are not in memory"
    if any(parameter.is_meta for parameter in inner.parameters()):
        return "weights are offloaded: their values are not in memory"
    return None
