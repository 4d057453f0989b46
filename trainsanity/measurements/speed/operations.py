"""Floating-point operations of a micro-batch, and the share of the device's peak that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.facts import autocast_of, tf32_allowed
from trainsanity.errors import first_line
from trainsanity.maths.device_peaks import peak_of

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Operations:
    """Operations of one micro-batch, forward and backward.

    Attributes:
        count: as torch's counter has them; None where it raised.
        peak: of the device, a second; None where it is not known.
        words: what is missing, and why; empty if nothing is.
    """

    count: int | None
    peak: float | None
    words: str = ""

    def utilisation(self, seconds: float) -> float | None:
        """Return the share of the peak (MFU) of a micro-batch that takes so long."""
        if not self.count or self.peak is None or seconds <= 0:
            return None
        return self.count / seconds / self.peak


def operations_of(pipeline: Pipeline, take: Callable[[], Any]) -> Operations:
    """Count the operations of one pass, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    peak, why = _peak(pipeline)
    try:
        with FlopCounterMode(display=False) as counter:
            take()
    except Exception as error:  # a compiled or sharded model, or a kernel of somebody's own
        said = f"torch's counter of operations raised {type(error).__name__}: {first_line(error)}"
        return Operations(None, peak, said)
    return Operations(int(counter.get_total_flops()), peak, why)


def _peak(pipeline: Pipeline) -> tuple[float | None, str]:
    import torch

    device = pipeline.trainer.args.device if pipeline.trainer is not None else pipeline.device
    if device.type != "cuda":
        return None, f"the peak of a {device.type} is not known"
    name = torch.cuda.get_device_name(device)
    half = autocast_of(pipeline) in ("bf16", "fp16") or pipeline.dtype.itemsize == 2
    peak = peak_of(name, half=half, tf32=tf32_allowed())
    return peak, "" if peak else f"the peak of {name} is not in the table"
