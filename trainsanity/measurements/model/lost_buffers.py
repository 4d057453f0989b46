"""Buffers that ``from_pretrained`` left as memory was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.model.initialised import HUGE, TINY, owner_of
from trainsanity.measurements.model.origin import Origin, tensor_names
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class LostBuffer:
    """A buffer whose values ``__init__`` did not give.

    Attributes:
        name: of the buffer.
        holds: what it holds, in words.
        given: what ``__init__`` gives it, in words.
    """

    name: str
    holds: str
    given: str


@dataclass(frozen=True)
class LostBuffers:
    """Buffers that neither the checkpoint nor ``_init_weights`` fills.

    Attributes:
        asked: buffers that the checkpoint does not have; None where that was not asked.
        lost: those of them that hold zeros or garbage where ``__init__`` gives values.
    """

    asked: int | None
    lost: list[LostBuffer]


@measurement(Cost.STATIC)
def lost_buffers(pipeline: Pipeline, origin: Origin) -> LostBuffers:
    """Hold buffers that the checkpoint does not have against those of a model built anew.

    transformers 5 builds a model without memory; ``_init_weights`` alone fills what no checkpoint
    does, buffers as parameters.  What may be memory is asked about, so that most models are not
    built again.
    """
    import transformers

    base = unwrapped(pipeline.model)
    new_enough = int(transformers.__version__.partition(".")[0]) >= 5
    known = tensor_names(Path(origin.checkpoint)) if origin.checkpoint else None
    if not (new_enough and known and isinstance(base, transformers.PreTrainedModel)):
        return LostBuffers(None, [])
    asked = {
        name: buffer.detach()
        for name, buffer in base.named_buffers()
        if buffer.numel() and not buffer.is_meta and not _stored(name, known)
    }
    strange = {name: one.to("cpu") for name, one in asked.items() if _may_be_memory(one)}
    if not strange:
        return LostBuffers(len(asked), [])
    with preserved(pipeline):
        try:
            lost = list(_lost(base, strange))
        except Exception:
            return LostBuffers(None, [])  # a model that cannot be built again is no evidence
    return LostBuffers(len(asked), lost)


def _stored(name: str, known: set[str]) -> bool:
    """Return whether the checkpoint has the buffer, perhaps with a part's name before it."""
    return any(one == name or one.endswith(f".{name}") or name.endswith(f".{one}") for one in known)


def _may_be_memory(held: Tensor) -> bool:
    """Return whether a buffer holds zeros, or what no module computes with."""
    return not held.is_complex() and not TINY <= _largest(held) <= HUGE


def _lost(base: Any, strange: dict[str, Tensor]) -> Iterator[LostBuffer]:
    """Yield those that ``__init__`` gives other values, and ``_init_weights`` none."""
    import torch
    from accelerate import init_empty_weights

    with torch.device("meta"):
        skeleton = type(base)(copy.deepcopy(base.config))
    left = [name for name in strange if not _filled_by_the_model(skeleton, name)]
    if not left:
        return
    # This makes each parameter before it drops it, which takes a large model seconds.
    with init_empty_weights(include_buffers=False):
        given = dict(type(base)(copy.deepcopy(base.config)).named_buffers())
    for name in left:
        held, first = strange[name], given.get(name)
        if first is None or first.shape != held.shape or not bool(first.any()):
            continue
        if what := _garbage(held, first):
            yield LostBuffer(name, what, _range(first))


def _largest(values: Tensor) -> float:
    return float(values.double().abs().max())


def _garbage(held: Tensor, given: Tensor) -> str:
    """Return in words what shows that nobody wrote a buffer; empty if nothing does."""
    if not bool(held.any()):
        return "zeros"
    largest, usual = _largest(held), _largest(given)
    if not largest <= max(HUGE, HUGE * usual):
        return f"values of up to {largest:.3g}"
    if held.is_floating_point() and largest < TINY < usual:
        return f"values below {TINY:g}"
    return ""


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _filled_by_the_model(skeleton: Any, name: str) -> bool:
    """Return whether ``_init_weights`` writes the buffer: other values do not outlive it."""
    import torch

    place, _, key = name.rpartition(".")
    module = skeleton.get_submodule(place)
    before = getattr(module, key)
    strange = torch.full_like(before, 1 if before.dtype == torch.bool else 7, device="cpu")
    setattr(module, key, strange.clone())
    with torch.no_grad():
        owner_of(skeleton, place)._init_weights(module)
    return not bool((getattr(module, key) == strange).all())
