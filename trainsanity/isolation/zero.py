"""DeepSpeed's ZeRO: where it keeps what, and how a model is taken out of its hands again.

An engine gives the model's parameters other memory: views of one flat tensor (stages 1 and 2), or a
part on each process and nothing in their place (stage 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.host_memory import to_host
from trainsanity.isolation.time_limit import deferred

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def zero_stage(trainer: Any) -> int | None:
    """Return the stage of ZeRO that the Trainer trains with; None without DeepSpeed."""
    if not getattr(trainer, "is_deepspeed_enabled", False):
        return None
    return int(trainer.accelerator.state.deepspeed_plugin.zero_stage)


def engine_of(trainer: Any) -> Any:
    """Return DeepSpeed's engine, which there is while ``train()`` runs; None at other times."""
    return getattr(getattr(trainer.accelerator, "deepspeed_engine_wrapped", None), "engine", None)


@contextmanager
def engine_dropped(pipeline: Pipeline) -> Iterator[None]:
    """Give the parameters their own memory back at the end of the block, and end the engine.

    Their values are for :func:`.preserved` to put back, as are the attributes and hooks that the
    engine gave to parameters and modules; the parts of a model that was made in parts
    (``deepspeed.zero.Init``) are put back here.
    """
    if zero_stage(pipeline.trainer) is None:
        yield
        return
    import torch

    # Memory of the host stays as it is, since the engine moves a model to its device.  That of a
    # device would be there twice, and is taken anew.
    places = [
        (p, p.data if p.device.type == "cpu" else None, p.shape, p.dtype, p.device)
        for p in pipeline.model.parameters()
    ]
    parts = [p.ds_tensor for p in pipeline.model.parameters() if hasattr(p, "ds_tensor")]
    devices, kept = [part.device for part in parts], to_host(parts)
    try:
        yield
    finally:
        with deferred():
            if (engine := engine_of(pipeline.trainer)) is not None:
                engine.destroy()
            for parameter, data, shape, dtype, device in places:
                own = torch.empty(shape, dtype=dtype, device=device) if data is None else data
                parameter.data = own
            for part, device, values in zip(parts, devices, kept, strict=True):
                part.data = values.to(device)
