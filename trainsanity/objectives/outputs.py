"""Objectives whose loss is a formula of the model's outputs, whatever these are called.

The formula is held against the loss that the user's own code computes in the same passes
(``measurements/step/outputs_formula.py``), in value and in gradient with respect to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainsanity.objectives.base import Objective
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call of a model inside the loss.

    Attributes:
        module: what was called.
        outputs: its tensors by name; those of the objective's ``reads`` at least.
        graded: whether a gradient flows back into one of them.
    """

    module: Any
    outputs: Mapping[str, Tensor]
    graded: bool


@dataclass(frozen=True)
class Terms:
    """A loss as its items: ``sum(weights * losses)``.

    Attributes:
        losses: of each item, ``[M]``, differentiable.
        weights: of each item, ``[M]``; their sum is 1 for a mean.
    """

    losses: Tensor
    weights: Tensor

    @property
    def value(self) -> Tensor:
        """Return the loss, a scalar."""
        total: Tensor = (self.losses * self.weights.to(self.losses)).sum()
        return total

    @classmethod
    def mean(cls, losses: Tensor) -> Terms:
        """Return items that count the same.

        Raises:
            Skip: there is none.
        """
        import torch

        if not losses.numel():
            raise Skip("the micro-batch has nothing that the loss counts")
        losses = losses.flatten()
        return cls(losses, torch.full_like(losses.detach(), 1 / losses.numel()))


Mistake = tuple[str, str, Callable[[], "Tensor"]]
"""A known wrong formula: what is wrong, what to do instead, and its value."""


@dataclass(frozen=True)
class OfOutputs(Objective):
    """An objective of a model's outputs.

    A subclass states ``terms`` and the mistakes that people make of them.

    Attributes:
        reads: names of the outputs that the loss is made of; a call that returns all of them is
            one of the calls that ``terms`` is given.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def settings(self, trainer: Any) -> Mapping[str, Any]:
        """Return what the formula depends on beside outputs and batch.

        Raises:
            Skip: a setting asks for another formula than the one known here.
        """
        del trainer
        return {}

    def terms(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Terms:
        """Return the items of a batch, computed in the dtype of the outputs.

        Raises:
            Skip: batch or outputs are not what the formula is of.
        """
        raise NotImplementedError

    def mistakes(
        self, calls: Sequence[Call], inputs: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Mistake]:
        """Yield known wrong formulas of the same outputs."""
        del calls, inputs, settings
        yield from ()


def only(calls: Sequence[Call]) -> Call:
    """Return the one call that there is.

    Raises:
        Skip: the loss makes several passes, or none that shows its outputs.
    """
    if len(calls) != 1:
        raise Skip(
            f"the loss made {len(calls)} passes that show its outputs, and the formula is of one"
        )
    return calls[0]


def given(inputs: Mapping[str, Any], *names: str) -> list[Any]:
    """Return tensors of the batch.

    Raises:
        Skip: the batch lacks one.
    """
    import torch

    missing = [name for name in names if not torch.is_tensor(inputs.get(name))]
    if missing:
        raise Skip(f"the batch has no {' and no '.join(missing)}")
    return [inputs[name] for name in names]


def entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each row of logits ``[M, C]`` in their dtype, ``[M]``."""
    # From the largest: of a logit of 20 the rounding is larger than what is left of 1 - p.
    z = logits - logits.detach().amax(-1, keepdim=True)
    losses: Tensor = z.logsumexp(-1) - z.gather(-1, targets[:, None])[:, 0]
    return losses
