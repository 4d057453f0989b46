"""What an evaluation leaves of the weights, and what the user's code keeps of them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.overrides import LIBRARIES, own_methods

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

NUDGE = 2.0**-7
"""By what the weights are moved, relative to them: a unit of bfloat16, so that none stays."""


@dataclass
class KeptWeights:
    """What was seen at one evaluation by code of the user's own.

    Attributes:
        by: what is the user's own.
        weights: how many parameters and buffers there are.
        left: names of those that differ after ``evaluate()``.
        shared: objects that hold the model's own tensors under their names since then, each with
            whether its class loads a state dict.
    """

    by: list[str] = field(default_factory=list)
    weights: int = 0
    left: list[str] = field(default_factory=list)
    shared: dict[str, bool] = field(default_factory=dict)


def keepers(trainer: Any) -> list[Any]:
    """Return the user's own callbacks that take a state dict when they hear of an evaluation."""
    return [
        one
        for one in getattr(getattr(trainer, "callback_handler", None), "callbacks", ())
        if own_methods(one, ("on_evaluate",)) and "state_dict" in _called(type(one), "on_evaluate")
    ]


def kept_by(
    pipeline: Pipeline, evaluate: Callable[[], Any], callbacks: list[Any], own: list[str]
) -> tuple[dict[str, Any], KeptWeights]:
    """Run an evaluation; return its metrics, and what it leaves and keeps.

    Weights, and what the callbacks hold, are the caller's to put back.

    Where ``evaluate`` is the user's own, the weights are moved first, away from what it may have
    copied of them before.

    Args:
        pipeline: one with a Trainer.
        evaluate: returns its metrics.
        callbacks: of :func:`keepers`; they are told of the metrics.
        own: the methods by which the user's own Trainer evaluates.
    """
    import torch

    trainer, model = pipeline.trainer, pipeline.model
    found = KeptWeights([*own, *(type(one).__name__ for one in callbacks)])
    if trainer.compute_metrics is not None:
        found.by.append("compute_metrics")
    if own:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    parameter.mul_(1 + NUDGE)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found.weights = len(tensors)
    owners = [trainer, *callbacks]
    before = {id(value) for one in owners for _, value in _mappings(one)}
    was = hashes(tensors.values())
    with _written_by_forward(model) as by_itself:
        metrics = dict(evaluate() or {})
    found.left = [
        name
        for name, a, b in zip(tensors, was, hashes(tensors.values()), strict=True)
        if a != b and name not in by_itself
    ]
    for one in callbacks:
        try:
            one.on_evaluate(
                trainer.args, trainer.state, trainer.control, metrics=metrics, model=model
            )
        except Exception:
            continue  # it may want what a run has by then
    places = {name: p.data_ptr() for name, p in model.named_parameters() if p.requires_grad}
    for owner in owners:
        for name, value in _mappings(owner):
            if id(value) in before or not any(
                torch.is_tensor(value.get(key)) and value[key].data_ptr() == place
                for key, place in places.items()
            ):
                continue
            found.shared[f"{type(owner).__name__}.{name}"] = _loads(type(owner))
    return metrics, found


@contextmanager
def _written_by_forward(model: Any) -> Iterator[set[str]]:
    """Note the buffers to which modules in eval mode write as the model runs in the block.

    A count of what was seen, a cache, a queue: that is how the model is made, whoever evaluates it.
    """
    buffers = dict(model.named_buffers())
    found: set[str] = set()
    before: list[Any] = []

    def note(*_: Any) -> None:
        before[:] = hashes(buffers.values())

    def compare(*_: Any) -> None:
        for name, a, b in zip(buffers, before, hashes(buffers.values()), strict=False):
            if a != b and not model.get_submodule(name.rpartition(".")[0]).training:
                found.add(name)

    handles = [model.register_forward_pre_hook(note), model.register_forward_hook(compare)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _mappings(owner: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in vars(owner).items():
        if isinstance(value, Mapping):
            yield name, value


def _loads(cls: type) -> bool:
    """Return whether code of a class, or of those below it, gives a state dict back to a model."""
    return any("load_state_dict" in _names(value) for value in _own_functions(cls).values())


def _called(cls: type, name: str) -> set[str]:
    """Return the names that a method uses, and the class's own methods that it calls."""
    functions = _own_functions(cls)
    found: set[str] = set()
    ahead = [name]
    while ahead:
        used = {*_names(functions.pop(ahead.pop(), None))}
        found |= used
        ahead += [one for one in used if one in functions]
    return found


def _own_functions(cls: type) -> dict[str, Any]:
    """Return the methods that no library wrote, as the class inherits them."""
    return {
        name: value
        for one in reversed(cls.__mro__)
        if one.__module__.partition(".")[0] not in (*LIBRARIES, "builtins")
        for name, value in vars(one).items()
    }


def _names(function: Any) -> tuple[str, ...]:
    return tuple(getattr(getattr(function, "__code__", None), "co_names", ()))
