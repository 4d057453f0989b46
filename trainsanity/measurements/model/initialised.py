"""Parameters that hold what was in memory when they were made."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import local
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.model.origin import Origin
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

HUGE = 1e6
"""No initialiser and no training gives a weight of this size; random bits do every second time."""

TINY = 1e-20
"""Nor one of this size, but for exactly 0; a trained weight may have decayed to it, a new one not.
Addresses and small integers read as float32 are below 1e-38."""

MANY = 0.01
"""Part of a tensor's elements that have to be tiny: chance gives a normal variable none."""

SAMPLE = 65_536
"""Elements of each tensor that are looked through for tiny ones."""

MOST = 10_000_000
"""Elements of a tensor that is made again to see who initialises it."""


@dataclass(frozen=True)
class Strange:
    """A parameter with values that no initialiser gives.

    Attributes:
        name: of the parameter.
        largest: its largest absolute value; NaN if it has one.
        tiny: how many of its first elements are not 0 and nearly so.
        elements: how many those are.
    """

    name: str
    largest: float
    tiny: int
    elements: int


@dataclass(frozen=True)
class Initialised:
    """Parameters that no initialiser seems to have given a value.

    Attributes:
        parameters: tensors.
        strange: those with values that no initialiser gives.
        forgotten: names of those that ``from_pretrained`` left as memory was, by the model's own
            ``_init_weights``; None where that was not asked.
        zero: of the forgotten, those that are all zeros.
        constant: of the forgotten, those whose elements are all equal and not 0.
    """

    parameters: int
    strange: list[Strange]
    forgotten: list[str] | None
    zero: list[str]
    constant: list[str]


@measurement(Cost.STATIC)
def initialised(pipeline: Pipeline, origin: Origin) -> Initialised:
    """Read the values of all parameters, and have the model initialise NaN where it loaded none."""
    model = pipeline.model
    named = {name: local(p.detach()) for name, p in model.named_parameters()}
    named = {n: p for n, p in named.items() if p.is_floating_point() and p.numel()}
    new = set(named) if origin.checkpoint is None else set(origin.new)
    strange = [one for one in _read(named, new) if one is not None]
    forgotten = None
    if origin.checkpoint is not None:
        with preserved(pipeline):
            forgotten = _forgotten(model, origin.new)
    there = [named[name] for name in forgotten or () if name in named]
    first = [(tensor, tensor.flatten()[0]) for tensor in there]
    equal = {
        name
        for name, (tensor, one) in zip(forgotten or (), first, strict=False)
        if bool((tensor == one).all())
    }
    zero = {name for name in equal if not bool(named[name].any())}
    return Initialised(len(named), strange, forgotten, sorted(zero), sorted(equal - zero))


def _read(named: dict[str, Any], new: set[str]) -> list[Strange | None]:
    """Return what is strange about each, with one wait for the device."""
    import torch

    if not named or any(tensor.is_meta for tensor in named.values()):
        return []
    # A maximum is NaN if an element is, and reads a tensor once.
    infinity = float("inf")
    norms = [torch.linalg.vector_norm(t.float(), infinity).cpu() for t in named.values()]
    largest = torch.stack(norms).tolist()
    found: list[Strange | None] = []
    for (name, tensor), most in zip(named.items(), largest, strict=True):
        tiny, some = 0, tensor.flatten()[:SAMPLE]
        if name in new and tensor.dtype in (torch.float32, torch.float64):
            small = some.abs()
            tiny = int(((small > 0) & (small < TINY)).sum())
        if not most <= HUGE or tiny > MANY * some.numel():
            found.append(Strange(name, most, tiny, some.numel()))
    return found


def _forgotten(model: Any, new: list[str]) -> list[str] | None:
    """Return which of these parameters the model's ``_init_weights`` does not know.

    transformers 5 builds a model without memory, and what no checkpoint fills is filled by
    ``_init_weights`` alone: what ``__init__`` wrote is lost.
    """
    import torch
    import transformers

    if int(transformers.__version__.partition(".")[0]) < 5:
        return None
    if not isinstance(model, transformers.PreTrainedModel):
        return None
    shapes = {name: p.shape for name, p in model.named_parameters() if p.numel() <= MOST}
    try:
        with torch.device("meta"):
            skeleton = type(model)(copy.deepcopy(model.config))
        forgotten = []
        for name in new:
            if name not in shapes:
                continue
            place, _, key = name.rpartition(".")
            module = skeleton.get_submodule(place)
            filled = torch.nn.Parameter(torch.full(shapes[name], float("nan"), device="cpu"))
            setattr(module, key, filled)
            with torch.no_grad():
                owner_of(skeleton, place)._init_weights(module)
            if bool(getattr(module, key).isnan().any()):
                forgotten.append(name)
    except Exception:
        return None  # a model that cannot be built without memory is no evidence
    return forgotten


def owner_of(skeleton: Any, place: str) -> Any:
    """Return the innermost pretrained model around a module."""
    from transformers import PreTrainedModel

    owner, module = skeleton, skeleton
    for part in filter(None, place.split(".")):
        module = getattr(module, part)
        if isinstance(module, PreTrainedModel):
            owner = module
    return owner
