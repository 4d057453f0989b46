"""The same rows through each implementation of attention that the model has."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.forwards import token_model
from trainsanity.measurements.model.probes import ModelProbe, Outputs, Probes
from trainsanity.measurements.model.raised import asked
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
"""By the names of transformers' ``attn_implementation``; what is not installed is left out."""


@dataclass(frozen=True)
class Attention:
    """The model's outputs with each implementation.

    Attributes:
        own: the implementation that is trained.
        outputs: by the other implementations' names.
    """

    own: str
    outputs: dict[str, Outputs]


@measurement(Cost.FORWARD)
def attention(pipeline: Pipeline, probes: Probes) -> Attention:
    """Run the probes' rows once with each other implementation, and put the model's own back.

    Raises:
        Skip: the model has only one, or has chosen when it was built.
    """
    model = unwrapped(token_model(pipeline.model))
    own = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if not getattr(model, "_supports_attention_backend", False) or own is None:
        raise Skip(f"the attention of {type(model).__name__} cannot be switched once it is built")
    outputs = {}
    for name in IMPLEMENTATIONS:
        if name == own:
            continue
        with asked(pipeline, probes.precision.way):
            if switched(model, name, half=probes.dtype.itemsize == 2):
                outputs[name] = ModelProbe(pipeline, probes.rows)(probes.inputs, probes.side)
    lost = [name for name, output in outputs.items() if _overflows(output, probes)]
    outputs = {name: output for name, output in outputs.items() if name not in lost}
    if lost and not outputs:
        raise Skip(f"{' and '.join(lost)} masks float64 by a number that float32 does not have")
    if not outputs:
        raise Skip(f"{type(model).__name__} has no implementation of attention beside {own}")
    return Attention(str(own), outputs)


def _overflows(output: Outputs, probes: Probes) -> bool:
    """Return whether an implementation cannot take the float64 that the model's own can.

    transformers masks by the least number of the dtype, and eager attention takes its softmax in
    float32, where that of float64 is minus infinity: a place of padding that sees nothing is NaN.
    """
    import torch

    def finite(logits: list[Tensor]) -> bool:
        return all(bool(one.isfinite().all()) for one in logits)

    if probes.dtype != torch.float64 or not finite(probes.own.logits):
        return False
    return not finite(output.logits)


def switched(model: Any, name: str, *, half: bool) -> bool:
    """Switch the implementation; return whether the model took it."""
    flash = name.startswith("flash")
    if flash and not (half and _installed(name) and model.device.type == "cuda"):
        return False
    switch = getattr(model, "set_attn_implementation", None)
    # What a model cannot do it says in an ImportError or a ValueError.
    with suppress(ImportError, ValueError):
        if switch is not None:
            switch(name)
        elif not flash:  # before there was a method, the config was what attention looked at
            model.config._attn_implementation = name
    return bool(model.config._attn_implementation == name)


def _installed(name: str) -> bool:
    from transformers import utils

    return bool(getattr(utils, f"is_{name.replace('attention', 'attn')}_available", bool)())
