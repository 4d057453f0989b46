"""Parameters that a model's forward uses and that are no parameters of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import logits_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.model.forward import predicting
from trainsanity.measurements.model.raiser import gathered
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

DEPTH = 3
"""Lists in lists that are looked into."""

OWN = frozenset({"_parameters", "_modules", "_buffers"})


@dataclass
class Unregistered:
    """Parameters in lists and dictionaries of a model's modules.

    Attributes:
        known: how many parameters the model itself knows.
        held: trainable parameters in such containers that the model does not know.
        used: names of those that a gradient comes to, and how many numbers they hold.
    """

    known: int = 0
    held: int = 0
    used: dict[str, int] = field(default_factory=dict)


@measurement(Cost.FORWARD)
def unregistered(pipeline: Pipeline, batch: Batch) -> Unregistered:
    """Differentiate the outputs by what lists and dictionaries of the model's modules hold.

    Raises:
        Skip: there is something, and the model does not take the batch.
    """
    import torch

    model = pipeline.model
    known = {id(one) for one in model.parameters()}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in OWN or not isinstance(value, list | tuple | Mapping):
                continue
            for path, one in _parameters(value, f"{name}.{key}".lstrip("."), DEPTH):
                if id(one) not in known and one.requires_grad:
                    found.setdefault(id(one), (path, one))
    seen = Unregistered(len(known), len(found))
    if not found:
        return seen
    names, tensors = zip(*found.values(), strict=True)
    whole = gathered(model)
    with preserved(pipeline), quiet(pipeline), torch.enable_grad(), whole:
        align_special_tokens(pipeline)
        try:
            outputs = logits_of(model(**predicting(model, dict(next(iter(batch)).model_inputs))))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Skip(f"the model does not take the batch: {error}") from error
        if outputs is None or not outputs.requires_grad:
            raise Skip("the model returns no outputs that a gradient comes from")
        gradients = torch.autograd.grad(outputs.float().sum(), tensors, allow_unused=True)
    for path, one, gradient in zip(names, tensors, gradients, strict=True):
        if gradient is not None:
            seen.used[path] = one.numel()
    return seen


def _parameters(value: Any, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters in a container, and those of modules in it."""
    import torch

    if isinstance(value, torch.nn.Parameter):
        yield path, value
    elif isinstance(value, torch.nn.Module):
        for name, one in value.named_parameters():
            yield f"{path}.{name}", one
    elif depth and isinstance(value, Mapping):
        for key, one in list(value.items()):
            yield from _parameters(one, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _parameters(one, f"{path}[{number}]", depth - 1)
