"""Parts that the model's own ``train()`` freezes, and those that an attribute only seems to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Freezing:
    """Parameters whose ``requires_grad`` is not what somebody meant it to be.

    Attributes:
        modules: how many modules the model has.
        attributes: names of modules that have an attribute ``requires_grad`` which is False, each
            with how many of its parameters are trained all the same.
        by_train: names of parameters that are trainable, and frozen after ``model.train()``.
    """

    modules: int
    attributes: dict[str, int]
    by_train: list[str]


@measurement(Cost.STATIC)
def freezing(pipeline: Pipeline) -> Freezing:
    """Read the modules' attributes, call ``model.train()`` and put everything back."""
    model = pipeline.model
    attributes = {
        name: sum(p.requires_grad for p in module.parameters())
        for name, module in model.named_modules()
        if vars(module).get("requires_grad") is False
    }
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    by_train: list[str] = []
    with preserved(pipeline):
        try:
            model.train()
            by_train = [n for n, p in model.named_parameters() if before[n] and not p.requires_grad]
        finally:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad != before[name]:
                    parameter.requires_grad_(before[name])
    return Freezing(
        sum(1 for _ in model.modules()),
        {name: count for name, count in attributes.items() if count},
        by_train,
    )
