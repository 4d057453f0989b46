"""Models beside the trained one that run while steps are taken, and what is random in them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.fields import logits_of
from trainsanity.isolation.hashing import hashes

if TYPE_CHECKING:
    from torch import nn

    from trainsanity.measurements.step.steps import Recording


@dataclass
class Teacher:
    """A model that is asked without a gradient.

    Attributes:
        name: of its class.
        parameters: how many it has.
        dropping: how many of its dropout layers were on, at the most.
        moved: its weights changed while the steps were taken, as those of a running mean do.
    """

    name: str
    parameters: int
    dropping: int = 0
    moved: bool = False


@contextlib.contextmanager
def teachers_watched(model: nn.Module, seen: Recording, known: Collection[Any]) -> Iterator[None]:
    """Fill in ``seen.teachers``: outermost modules that run without a gradient beside the model.

    Args:
        model: that is trained.
        seen: filled in.
        known: models that are judged elsewhere, as references are.
    """
    import torch
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    is_tensor = torch.is_tensor
    trained = {id(part) for part in model.modules()}
    own = {id(part) for one in (model, *known) for part in one.modules()}
    open_calls: list[int] = []
    found: dict[int, tuple[Any, Teacher, list[int]]] = {}

    def before(module: Any, _inputs: Any) -> None:
        outermost = not open_calls
        open_calls.append(id(module))
        if not outermost or torch.is_grad_enabled() or seen.asking or id(module) in own:
            return
        drops = sum(_drops(part) for part in module.modules())
        if id(module) not in found:
            weights = list(module.parameters())
            if not weights:
                return
            count = sum(p.numel() for p in weights)
            found[id(module)] = (
                module, Teacher(type(module).__name__, count), hashes(weights))  # fmt: skip
        teacher = found[id(module)][1]
        teacher.dropping = max(teacher.dropping, drops)

    def after(module: Any, _inputs: Any, output: Any) -> None:
        # A call that raised left its mark behind.
        while open_calls and open_calls.pop() != id(module):
            pass
        if not open_calls and not seen.asking and id(module) not in trained:
            said = logits_of(output) if isinstance(output, Mapping) or is_tensor(output) else None
            seen.beside |= is_tensor(said) and said.dim() == 3 and not said.requires_grad

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, teacher, weights in found.values():
            teacher.moved = hashes(list(module.parameters())) != weights
            seen.teachers.append(teacher)


def _drops(module: Any) -> bool:
    """Return whether a module is a dropout layer that is on."""
    from torch import nn

    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0
