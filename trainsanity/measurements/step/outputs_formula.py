"""The first micro-batch's loss, beside the formula of its objective on the outputs of its passes.

The user's own ``compute_loss`` runs once more, in the mode that it trains in. What the models in it
return is kept with its gradient, so that the formula sees the very outputs that the loss is made
of: dropout and masks that are drawn move both alike. Value and gradient with respect to the outputs
are compared; no pass back through the model is due.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.snapshot import restored
from trainsanity.isolation.time_limit import deferred
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.owners import named, of_a_library
from trainsanity.measurements.step.passes import inner
from trainsanity.objectives.outputs import Call, OfOutputs
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

TF32 = 2.0**-10
"""Unit in the last place of a matrix product on GPUs where TF32 is allowed."""


@dataclass
class OutputsFormula:
    """A loss beside its formula on the outputs that it was made of.

    Attributes:
        items: how many the formula counts.
        loss, expected: both values; NaN where nothing was asked.
        allowed: what rounding explains of their difference.
        turned: norm of the difference of the gradients with respect to the outputs, over the
            formula's; None where the loss does not reach the outputs that are returned.
        turn_allowed: what rounding explains of it.
        slope: the user's gradient along the formula's, over the formula's.
        mistakes: known wrong formulas with the loss's value and gradient, each with its fix.
        owner: whose code computes the loss; empty if it is a library's.
        reason: why nothing was asked; empty if it was.
    """

    items: int = 0
    loss: float = math.nan
    expected: float = math.nan
    allowed: float = 0.0
    turned: float | None = None
    turn_allowed: float = 0.0
    slope: float = math.nan
    mistakes: tuple[tuple[str, str], ...] = ()
    owner: str = ""
    reason: str = "the objective's formula is none of the model's outputs by name"

    @property
    def agrees(self) -> bool:
        """Return whether rounding explains the difference in value and in gradient."""
        along = self.turned is None or within(self.turned, self.turn_allowed)
        return along and within(abs(self.loss - self.expected), self.allowed)


def ask_outputs(trainer: Any, objective: Any, inputs: Any) -> OutputsFormula:
    """Ask the loss of a prepared micro-batch beside the formula of its outputs.

    Args:
        trainer: the user's, in the middle of its first step.
        objective: the pipeline's.
        inputs: what ``compute_loss`` was given.
    """
    found = OutputsFormula()
    if not isinstance(objective, OfOutputs) or not isinstance(inputs, Mapping):
        return found
    if trainer.args.world_size > 1:
        found.reason = "asked of one process alone"
        return found
    try:
        settings = objective.settings(trainer)
        found.owner = _owner(trainer)
        _ask(trainer, objective, inputs, settings, found)
        found.reason = ""
    except Skip as skipped:
        found.reason = str(skipped)
    except Exception as error:
        found.reason = f"asked again it raised {type(error).__name__}: {first_line(error)}"
    return found


def _ask(
    trainer: Any,
    objective: OfOutputs,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    found: OutputsFormula,
) -> None:
    import torch

    with (
        restored([trainer, trainer.state, trainer.control]),
        torch.enable_grad(),
        calls_seen(objective.reads) as calls,
        trainer.compute_loss_context_manager(),
    ):
        loss = trainer.compute_loss(trainer.model_wrapped, dict(inputs))
        loss = loss[0] if isinstance(loss, tuple) else loss
        # Once as the loss's own code computes it, to see what its dtypes make of the formula.
        rough = _Asked.of(lambda: objective.terms(calls, inputs, settings).value, calls)
    exact = [_in_float64(call) for call in calls]
    with torch.autocast(loss.device.type, enabled=False):
        terms = objective.terms(exact, inputs, settings)
        right = _Asked.of(lambda: terms.value, exact)
        mine = _Asked.of(lambda: loss, calls)
        found.items = len(terms.losses)
        eps = _unit(calls, loss)
        unit = MARGIN * eps + REDUCTIONS
        found.loss, found.expected = mine.value, right.value
        found.allowed = MARGIN * abs(rough.value - right.value) + unit * max(1.0, abs(right.value))
        found.turn_allowed = MARGIN * (rough.turned(right) or 0.0) + MARGIN * unit
        found.turned, found.slope = mine.turned(right), mine.slope(right)
        if not math.isfinite(right.value):
            raise Skip(f"the formula gives {right.value} for this micro-batch")
        if found.agrees:
            return
        named = []
        for name, fix, value in objective.mistakes(exact, inputs, settings):
            wrong = _Asked.of(value, exact)
            turned = mine.turned(wrong)
            same = turned is None or within(turned, found.turn_allowed)
            allowed = found.allowed * max(1.0, abs(wrong.value) / max(1.0, abs(right.value)))
            if same and within(abs(mine.value - wrong.value), allowed):
                named.append((name, fix))
        found.mistakes = tuple(named)


@dataclass(frozen=True)
class _Asked:
    """A value, and its gradient with respect to each output; None for one that it does not use."""

    value: float
    pulls: list[Tensor | None]

    @classmethod
    def of(cls, value: Callable[[], Tensor], calls: Sequence[Call]) -> _Asked:
        import torch

        made = value()
        roots = _roots(calls)
        if not made.requires_grad or not roots:
            return cls(float(made.detach()), [None] * len(roots))
        pulls = torch.autograd.grad(made, roots, retain_graph=True, allow_unused=True)
        return cls(
            float(made.detach()), [None if pull is None else pull.double() for pull in pulls]
        )

    def turned(self, right: _Asked) -> float | None:
        """Return how far the gradient is from another's, over that; None if it reaches nothing."""
        pairs = self._beside(right)
        if not pairs:
            return None
        norm = math.sqrt(sum(float(there.square().sum()) for _, there in pairs))
        off = math.sqrt(sum(float((here - there).square().sum()) for here, there in pairs))
        return off / norm if norm else off

    def slope(self, right: _Asked) -> float:
        """Return the gradient along another's, over that."""
        pairs = self._beside(right)
        square = sum(float(there.square().sum()) for _, there in pairs)
        along = sum(float((here * there).sum()) for here, there in pairs)
        return along / square if square else math.nan

    def _beside(self, right: _Asked) -> list[tuple[Tensor, Tensor]]:
        import torch

        # A wrapper that casts returns other tensors than those that the loss was made of.
        if all(pull is None for pull in self.pulls):
            return []
        return [
            (torch.zeros_like(there) if here is None else here, there)
            for here, there in zip(self.pulls, right.pulls, strict=True)
            if there is not None
        ]


def _roots(calls: Sequence[Call]) -> list[Tensor]:
    return [value for call in calls for value in call.outputs.values() if value.requires_grad]


def _in_float64(call: Call) -> Call:
    return Call(
        call.module,
        {
            name: value.detach().double().requires_grad_(value.requires_grad)
            for name, value in call.outputs.items()
        },
        call.graded,
    )


def _unit(calls: Sequence[Call], loss: Tensor) -> float:
    import torch

    dtypes = {loss.dtype, *(value.dtype for call in calls for value in call.outputs.values())}
    eps = max(float(torch.finfo(dtype).eps) for dtype in dtypes)
    if loss.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        eps = max(eps, TF32)
    return eps


def _owner(trainer: Any) -> str:
    """Return whose code computes the loss, if it is no library's."""
    loss = getattr(trainer, "loss", None)
    candidates = (
        getattr(trainer, "compute_loss_func", None),
        trainer.compute_loss,
        getattr(type(loss), "compute_loss_from_embeddings", None),
        getattr(type(loss), "forward", None) if callable(loss) else None,
        type(inner(trainer.model)).forward,
    )
    for one in candidates:
        if callable(one) and not of_a_library(one):
            return named(one)
    return ""


@contextlib.contextmanager
def calls_seen(reads: Sequence[str]) -> Iterator[list[Call]]:
    """Watch every call of a module that returns outputs of these names, but for parts of others."""
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    seen: list[Call] = []
    open_calls: list[tuple[int, int]] = []

    def before(module: Any, _inputs: Any) -> None:
        open_calls.append((id(module), len(seen)))

    def after(module: Any, _inputs: Any, output: Any) -> None:
        began = len(seen)
        # A call that raised left its mark behind.
        while open_calls:
            owner, began = open_calls.pop()
            if owner == id(module):
                break
        outputs = _named(output, reads)
        if outputs:
            del seen[began:]  # those of its parts
            graded = any(value.requires_grad for value in outputs.values())
            seen.append(Call(inner(module), outputs, graded))

    handles: list[Any] = []
    try:
        with deferred():
            handles += [
                register_module_forward_pre_hook(before),
                register_module_forward_hook(after),
            ]
        yield seen
    finally:
        with deferred():
            for handle in handles:
                handle.remove()


def _named(output: Any, reads: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs of these names; none unless all are there."""
    import torch

    if not isinstance(output, Mapping):
        return {}
    found = {name: output.get(name) for name in reads}
    real = all(torch.is_tensor(one) and one.is_floating_point() for one in found.values())
    return found if real else {}  # type: ignore[return-value]
