"""Targets that are numbers, beside what the model is given of the same rows."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session
from trainsanity.engine.store import measurement
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from trainsanity.pipeline import Pipeline

TARGETS = ("labels", "label", "label_ids", "targets", "target", "y")
"""Names under which a batch has its targets."""


@dataclass(frozen=True)
class Beside:
    """Rows of the first optimizer step.

    Attributes:
        targets: one fraction a row.
        inputs: by name what the model takes of these rows, flat: ``[B, N]``.
    """

    targets: Tensor
    inputs: dict[str, Tensor]

    @property
    def places(self) -> int:
        """How many numbers a row has."""
        return sum(value.shape[1] for value in self.inputs.values())


@measurement(Cost.STATIC)
def beside_targets(pipeline: Pipeline) -> list[Beside]:
    """Return the rows of each micro-batch of the first step; of a script's loop, of each pass.

    Raises:
        Skip: the rows have no targets that are one fraction each, as far as is seen.
    """
    if pipeline.captured is not None:
        return [_of(target, given) for target, given in _captured(pipeline)]
    if pipeline.trainer is None:
        raise Skip("this pipeline has no Trainer, and no script whose loop was seen")
    # A column that nobody reads may be the target's own.
    taken = inspect.signature(unwrapped(pipeline.model).forward).parameters
    found = []
    for micro in Session.of(pipeline).measurements.get("batch"):
        name = next((name for name in TARGETS if name in micro.inputs), None)
        given = {key: v for key, v in micro.inputs.items() if key != name and key in taken}
        found.append(_of(micro.inputs.get(name or ""), given))
    return found


def _captured(pipeline: Pipeline) -> Iterable[tuple[Tensor, Mapping[str, object]]]:
    """Yield what torch's loss function was given as target, beside what the model was given."""
    assert pipeline.captured is not None
    for one in pipeline.captured.first.passes:
        if one.call is None or one.formula is None:
            raise Skip("the loss of this loop is no function of torch's, of one call of the model")
        named = {f"argument {k}": value for k, value in enumerate(one.call.args, 1)}
        yield one.formula.target, {**named, **one.call.kwargs}


def _of(target: object, given: Mapping[str, object]) -> Beside:
    import torch

    if not torch.is_tensor(target) or not target.is_floating_point() or not target.numel():
        raise Skip("the targets are no fractions")
    if not target.dim() or target.numel() != len(target):
        raise Skip("a row has several targets")
    return Beside(
        target.reshape(-1),
        {
            name: value.reshape(len(value), -1)
            for name, value in given.items()
            if torch.is_tensor(value)
            and value.is_floating_point()
            and value.dim()
            and len(value) == len(target)
        },
    )
