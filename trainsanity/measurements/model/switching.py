"""Side effects of switching the model's mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.isolation.overrides import own_modes, written_by_modes
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Switching:
    """Changes that ``train()`` and ``eval()`` make beside the mode.

    Attributes:
        overrides: methods of the model's own, as ``Class.train``.
        parameters: how many there are.
        written: names of those whose values change.
        kept_frozen: names of those that ``train()`` leaves trainable, and that are frozen after
            ``eval()`` and another ``train()``.
    """

    overrides: list[str]
    parameters: int
    written: list[str]
    kept_frozen: list[str]


@measurement(Cost.STATIC)
def switching(pipeline: Pipeline) -> Switching:
    """Call ``train()``, ``eval()`` and ``train()`` where the model overrides them."""
    model = pipeline.model
    overrides, count = own_modes(model), sum(1 for _ in model.parameters())
    if not overrides:
        return Switching([], count, [], [])
    written = written_by_modes(model)
    with preserved(pipeline):
        model.train()
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        model.eval()
        model.train()
        lost = [n for n, p in model.named_parameters() if n in trained and not p.requires_grad]
    return Switching(overrides, count, written, lost)
