"""In which modes the model was trained, and what moved in its frozen parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.hashing import hashes

if TYPE_CHECKING:
    from torch import nn

    from trainsanity.measurements.step.steps import Recording


@dataclass
class Modes:
    """Modes and frozen modules in the recorded steps.

    Attributes:
        forwards: passes of the model with gradients.
        in_eval: those of them in which no module was in training mode.
        random: names of modules that act otherwise in training mode: dropout above 0, and batch
            norms that are trained.
        dropping: names of frozen modules that dropped out features which no parameter before them
            could adapt to.
        dropping_share: of the model's parameters, the part that is frozen with those.
        frozen_buffers: how many buffers of frozen modules are kept with the weights.
        moved: names of those of them that other values stand in afterwards.
    """

    forwards: int = 0
    in_eval: int = 0
    random: list[str] = field(default_factory=list)
    dropping: list[str] = field(default_factory=list)
    dropping_share: float = 0.0
    frozen_buffers: int = 0
    moved: list[str] = field(default_factory=list)


def frozen_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the largest modules that have parameters and none that is trained, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(name.startswith(f"{other}.") for other in found)
        if parameters and not inside and not any(p.requires_grad for p in parameters):
            found[name] = module
    return found


@contextmanager
def watched_modes(model: nn.Module, seen: Recording) -> Iterator[None]:
    """Fill in ``seen.modes`` from the passes in the block; gradients have to be on."""
    import torch
    from torch import nn

    modes = seen.modes
    # Which parts are frozen shows when the model runs: some freeze them in train().
    frozen: dict[str, nn.Module] = {}
    before: dict[str, Any] = {}
    dropping: dict[str, None] = {}
    over = False

    def begin(module: Any, _inputs: Any) -> None:
        # The model is asked again with all hooks that it had in training, this one among them.
        if over or not torch.is_grad_enabled() or seen.asking:
            return
        if not modes.forwards:
            frozen.update(frozen_modules(model))
            before.update(_buffers(frozen))
            modes.random = of_a_mode(model, frozen)
        modes.forwards += 1
        modes.in_eval += not any(one.training for one in module.modules())

    def dropped(name: str) -> Any:
        def at(module: Any, _inputs: Any, output: Any) -> None:
            if over or seen.asking or not torch.is_grad_enabled() or not module.training:
                return
            if torch.is_tensor(output) and not output.requires_grad and module.p > 0:
                dropping[name] = None

        return at

    handles = [model.register_forward_pre_hook(begin)]
    handles += [
        module.register_forward_hook(dropped(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd)
    ]
    try:
        yield
    finally:
        over = True
        for handle in handles:
            handle.remove()
        after = _buffers(frozen)
        modes.frozen_buffers = len(before)
        modes.moved = [name for name, value in before.items() if after.get(name) != value]
        holders = {
            name: module
            for name, module in frozen.items()
            if any(one == name or one.startswith(f"{name}.") for one in dropping)
        }
        modes.dropping = list(holders)
        held = sum(p.numel() for module in holders.values() for p in module.parameters())
        modes.dropping_share = held / max(1, sum(p.numel() for p in model.parameters()))


def _buffers(frozen: dict[str, nn.Module]) -> dict[str, Any]:
    """Return hashes of the buffers that are kept with the weights and hold numbers."""
    there = {
        f"{name}.{key}".lstrip("."): buffer
        for name, module in frozen.items()
        for key, buffer in _kept(module)
        if buffer.is_floating_point()
    }
    return dict(zip(there, hashes(there.values()), strict=True))


def _kept(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in module.named_modules():
        for key, buffer in part.named_buffers(recurse=False):
            if key not in part._non_persistent_buffers_set:
                yield f"{name}.{key}".lstrip("."), buffer


def of_a_mode(model: nn.Module, frozen: dict[str, nn.Module]) -> list[str]:
    """Return the names of modules that act otherwise in training mode, frozen ones left out."""
    from torch import nn

    still = {id(part) for module in frozen.values() for part in module.modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) not in still
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or _drops_by_function(module)
            or (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine)
        )
    ]


def _drops_by_function(module: nn.Module) -> bool:
    """Return whether a module keeps a rate of dropout, as attention does that is one function."""
    return any(
        "dropout" in name and isinstance(value, float) and value > 0
        for name, value in vars(module).items()
    )
