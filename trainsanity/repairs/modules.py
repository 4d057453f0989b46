"""Repairs of modules: modes, what is trainable, what a module is, how it was drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.pipeline import active_adapters
from trainsanity.repairs import CannotApply, ChangesNothing, can_step_again
from trainsanity.repairs.loops import groups_completed

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@contextlib.contextmanager
def teachers_quiet(pipeline: Pipeline) -> Iterator[None]:
    """Put every other model that is asked without a gradient into evaluation mode."""
    import torch

    own = set(pipeline.model.modules())
    before: dict[Any, bool] = {}

    def quiet(module: Any, _: Any) -> None:
        if module.training and module not in own and not torch.is_grad_enabled():
            for part in module.modules():
                before.setdefault(part, part.training)
                part.training = False

    hook = torch.nn.modules.module.register_module_forward_pre_hook(quiet)
    try:
        yield
    finally:
        hook.remove()
        for part, training in before.items():
            part.training = training


@contextlib.contextmanager
def dropout_off(pipeline: Pipeline) -> Iterator[None]:
    """Set the probability of every dropout layer of the model to 0."""
    from torch.nn.modules.dropout import _DropoutNd

    layers = [one for one in pipeline.model.modules() if isinstance(one, _DropoutNd) and one.p]
    if not layers:
        raise ChangesNothing("the model has no dropout layer that is on")
    before = [one.p for one in layers]
    for one in layers:
        one.p = 0.0
    try:
        yield
    finally:
        for one, p in zip(layers, before, strict=True):
            one.p = p


@contextlib.contextmanager
def adapter_trainable(pipeline: Pipeline) -> Iterator[None]:
    """Make the parameters of the active adapter trainable."""
    names = active_adapters(pipeline.model)
    with _trainable(pipeline, lambda name: any(f".{one}" in name for one in names)):
        yield


@contextlib.contextmanager
def parameters_trainable(pipeline: Pipeline, names: tuple[str, ...]) -> Iterator[None]:
    """Make the parameters of these names trainable."""
    with _trainable(pipeline, names.__contains__):
        yield


@contextlib.contextmanager
def _trainable(pipeline: Pipeline, chosen: Callable[[str], bool]) -> Iterator[None]:
    frozen = [
        p
        for name, p in pipeline.model.named_parameters()
        if chosen(name) and not p.requires_grad and p.is_floating_point()
    ]
    if not frozen:
        raise ChangesNothing("these parameters are trainable already")
    with contextlib.ExitStack() as stack:
        for p in frozen:
            p.requires_grad_(True)
        try:
            if can_step_again(pipeline):  # a Trainer builds its optimizer after that
                with contextlib.suppress(ChangesNothing):
                    stack.enter_context(groups_completed(pipeline))
            yield
        finally:
            for p in frozen:
                p.requires_grad_(False)
                p.grad = None


@contextlib.contextmanager
def frozen_in_eval(pipeline: Pipeline) -> Iterator[None]:
    """Keep modules of which nothing is trainable in evaluation mode, whatever train() says."""
    frozen = [
        module
        for module in pipeline.model.modules()
        if module is not pipeline.model
        and [*module.buffers(), *module.parameters()]
        and not any(p.requires_grad for p in module.parameters())
    ]
    if not frozen:
        raise ChangesNothing("no module of the model is frozen as a whole")
    parts = {part: part.training for module in frozen for part in module.modules()}

    def stay(module: Any) -> Callable[..., Any]:
        return lambda mode=True: module

    for part in parts:  # a layer without parameters, too: nobody asks it any more
        part.training = False
    for module in frozen:
        vars(module)["train"] = stay(module)
    try:
        yield
    finally:
        for module in frozen:
            vars(module).pop("train", None)
        for part, training in parts.items():
            part.training = training


@contextlib.contextmanager
def softmax_removed(pipeline: Pipeline) -> Iterator[None]:
    """Put an identity in the place of the last softmax or sigmoid module that is a child."""
    import torch

    kinds = (torch.nn.Softmax, torch.nn.LogSoftmax, torch.nn.Sigmoid)
    found = [
        (parent, name, child)
        for parent in pipeline.model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]
    if not found:
        raise CannotApply("no module of the model is a softmax: it stands in the code")
    parent, name, child = found[-1]
    parent._modules[name] = torch.nn.Identity().train(child.training)
    try:
        yield
    finally:
        parent._modules[name] = child


@contextlib.contextmanager
def drawn_anew(pipeline: Pipeline, names: tuple[str, ...]) -> Iterator[None]:
    """Draw parameters as the config says: matrices normal, biases 0, other vectors 1."""
    import torch

    named = dict(pipeline.model.named_parameters())
    chosen = [(name, named[name]) for name in names if name in named]
    if not chosen:
        raise CannotApply("the model has no parameter of that name")
    width = float(getattr(pipeline.config, "initializer_range", None) or 0.02)
    before = [p.detach().clone() for _, p in chosen]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in chosen:
            if p.ndim > 1:
                draw = torch.randn(p.shape, generator=generator) * width
            else:
                draw = torch.zeros(p.shape) if name.endswith("bias") else torch.ones(p.shape)
            p.copy_(draw)
    try:
        yield
    finally:
        with torch.no_grad():
            for (_, p), value in zip(chosen, before, strict=True):
                p.copy_(value)
