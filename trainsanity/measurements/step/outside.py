"""Parameters that a loss is made with, and that neither the model nor an optimizer holds."""

from __future__ import annotations

import collections
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import in_parts

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording

NODES = 100_000
"""Nodes of a graph that are looked at; what lies behind them is not found."""


@dataclass(frozen=True)
class Outside:
    """A parameter that gets a gradient and takes no step.

    Attributes:
        name: the class of the module that has it, and its name there.
        elements: its size.
        alone: no other module of its network has parameters, as that of a loss, or a single layer;
            a whole network may be there to look at what the model makes.
    """

    name: str
    elements: int
    alone: bool


@contextmanager
def outside_watched(model: Any, seen: Recording) -> Iterator[None]:
    """Note the parameters outside of the model that the step's backward passes reach."""
    import torch

    own = {id(p) for p in model.parameters()}
    found: dict[int, Any] = {}
    backward = torch.autograd.backward

    def watching(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a model in parts, which training may have made of it, gathered ones are other tensors.
        if not seen.asking and len(seen.steps) <= 1 and not in_parts(model):
            roots = [tensors] if torch.is_tensor(tensors) else list(tensors)
            found.update({id(p): p for p in _leaves(roots) if id(p) not in own})
        return backward(tensors, *args, **kwargs)

    torch.autograd.backward = watching
    try:
        yield
    finally:
        torch.autograd.backward = backward
    own.update(id(p) for p in model.parameters())  # what a callback has put into it
    others = [p for key, p in found.items() if key not in own]
    if others:
        seen.update.outside = _not_held(others)


def _leaves(roots: list[Any]) -> list[Any]:
    """Return the parameters in a graph; other leaves are inputs that a gradient is asked of."""
    import torch

    waiting = collections.deque(root.grad_fn for root in roots if root.grad_fn is not None)
    seen: set[Any] = set()
    leaves = []
    while waiting and len(seen) < NODES:
        node = waiting.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.nn.Parameter):
            leaves.append(leaf)
        waiting.extend(following for following, _ in node.next_functions)
    return leaves


def _everything() -> list[Any]:
    """Return all objects that the collector knows, those that it was told to leave as well."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.freeze()


def _not_held(parameters: list[Any]) -> list[Outside]:
    """Return those that no optimizer holds: another one, of another network in turn, may."""
    import torch

    # A proxy's __class__ may load what it stands for.
    everything = _everything()
    held = {
        id(p)
        for optimizer in everything
        if issubclass(type(optimizer), torch.optim.Optimizer)
        for group in getattr(optimizer, "param_groups", ())
        for p in group["params"]
    }
    left = [p for p in parameters if id(p) not in held]
    return _described(left, [m for m in everything if issubclass(type(m), torch.nn.Module)])


def _described(parameters: list[Any], modules: list[Any]) -> list[Outside]:
    """Name the parameters by their modules, but for those of networks in eval mode.

    What is in eval mode is there to be asked, as a network that compares pictures is.
    """
    parents = {id(part): one for one in modules for part in one._modules.values()}
    owners = {id(p): (one, key) for one in modules for key, p in one._parameters.items()}
    made = []
    for p in parameters:
        owner, key = owners.get(id(p), (None, ""))
        if owner is None:
            made.append(Outside(f"a parameter of shape {tuple(p.shape)}", p.numel(), alone=True))
            continue
        root = owner
        while id(root) in parents:
            root = parents[id(root)]
        if owner.training:
            with_some = [one for one in root.modules() if len(one._parameters)]
            name = f"{type(owner).__name__}.{key}"
            made.append(Outside(name, p.numel(), alone=len(with_some) == 1))
    return made
