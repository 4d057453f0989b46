"""From which positions of the model's outputs the first step's gradient comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.base import IGNORED
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import MicroStep, Recording


@dataclass
class Pulls:
    """Gradients of the logits in the first step.

    Attributes:
        norms: for each pass of the model with one row of logits a token, ``[B, T]`` on the CPU.
        two_sided: the model has an encoder and a decoder.
    """

    norms: list[Tensor] = field(default_factory=list)
    two_sided: bool = False


@dataclass(frozen=True)
class ModelCall:
    """The first call of the model in training: what it was given, as it was given.

    Attributes:
        args, kwargs: its arguments; tensors are copies.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def values(self) -> list[Any]:
        """All arguments, in order."""
        return [*self.args, *self.kwargs.values()]

    def with_value(self, old: Any, new: Any) -> ModelCall:
        """Return the call with ``new`` in the place of the argument that is ``old``."""
        return ModelCall(
            tuple(new if value is old else value for value in self.args),
            {name: new if value is old else value for name, value in self.kwargs.items()},
        )


@contextmanager
def pulls_watched(model: Any, seen: Recording) -> Iterator[None]:
    """Note the norm of each position's gradient at the logits, in the first step alone."""
    import torch

    config = getattr(unwrapped(model), "config", None)
    seen.pulls.two_sided = bool(getattr(config, "is_encoder_decoder", False))

    def copied(value: Any) -> Any:
        return value.detach().clone() if torch.is_tensor(value) else value

    def at_end(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if seen.model_call is None and not seen.asking and torch.is_grad_enabled():
            named = {name: copied(value) for name, value in kwargs.items()}
            seen.model_call = ModelCall(tuple(map(copied, args)), named)
        logits = output.get("logits") if isinstance(output, Mapping) else None
        if seen.asking or len(seen.steps) > 1 or not torch.is_tensor(logits):
            return
        if logits.dim() != 3 or not logits.requires_grad:
            return
        place = len(seen.pulls.norms)
        # Where no gradient arrives nothing is pulled.
        seen.pulls.norms.append(torch.zeros(logits.shape[:2]))

        def arrived(gradient: Tensor) -> None:
            if not seen.asking:
                norms = torch.linalg.vector_norm(gradient.detach(), dim=-1, dtype=torch.float32)
                seen.pulls.norms[place] = norms.cpu()

        logits.register_hook(arrived)

    handle = unwrapped(model).register_forward_hook(at_end, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def at_padding(micro: MicroStep, norms: Tensor, *, two_sided: bool) -> tuple[Tensor, str] | None:
    """Return which positions' outputs nothing is learnt from, ``[B, T]``, and what names them.

    A decoder's are those behind its last label; other models' those that the mask hides, but for
    the last one on the left, which predicts the first token.  None where nothing names them.
    """
    import torch

    labels, mask = micro.inputs.get("labels"), micro.inputs.get("attention_mask")
    if two_sided:
        if not torch.is_tensor(labels) or labels.shape != norms.shape:
            return None
        counted = (labels != IGNORED).cpu()
        behind = counted.flip(1).cumsum(1).flip(1) == 0
        return behind & counted.any(1, keepdim=True), "labels"
    if not torch.is_tensor(mask) or mask.shape != norms.shape:
        return None
    hidden = (mask == 0).cpu()
    if torch.is_tensor(labels) and labels.shape == mask.shape and not labels.is_floating_point():
        # Labels that are counted under a hidden token are the collator's affair.
        hidden &= (labels == IGNORED).cpu()
    hidden[:, :-1] &= hidden[:, 1:].clone()
    return hidden, "attention_mask"
