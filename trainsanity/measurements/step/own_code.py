"""What the user's own code does in the recorded steps to gradients, weights, and what is trainable.

Two callbacks of ours stand around the user's own: the first hears of each event before they do, the
last one after them.  What a ``train()`` or a ``training_step()`` of the user's own writes lies
between those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.callbacks import STEP
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.host_memory import to_host
from trainsanity.isolation.overrides import own_methods, own_modes
from trainsanity.isolation.shards import is_sharded
from trainsanity.measurements.step.own_changes import StepChange
from trainsanity.measurements.step.sampling import sample, total_norm

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline

ELEMENTS = 1 << 12
"""Of each parameter: enough for a norm to be known to a few percent."""

OWN = ("train", "training_step", "create_optimizer", "create_optimizer_and_scheduler")
"""Methods of a Trainer in which code of the user's own may write to weights."""


class OwnCode:
    """Compares the model before and after the user's own code ran, where there is any.

    Args:
        pipeline: with the Trainer that is recorded.
        seen: what is recorded.
        users: the callbacks that take part.
    """

    def __init__(self, pipeline: Pipeline, seen: Recording, users: Sequence[Any]) -> None:
        self.seen, self.changes, self.model = seen, seen.own_code, pipeline.model
        own = own_methods(pipeline.trainer, OWN)
        self.changes.names = [*(type(one).__name__ for one in users), *own]
        self.users, self.idle = users, not users and not own
        self._trainable: dict[str, bool] = {}
        self._trained_at_first: dict[str, bool] = {}
        self._gradients: list[Any] = []
        self._weights: Tensor | None = None
        self._stepped_from: Tensor | None = None
        self._begun_from: Tensor | None = None
        self._at_first: dict[str, Any] = {}
        if not self.idle:
            named = self._named()
            self._trained_at_first = {name: p.requires_grad for name, p in named.items()}
            self._at_first = dict(zip(named, hashes(named.values()), strict=True))

    def _named(self) -> dict[str, Any]:
        return dict(self.model.named_parameters())

    def first(self) -> Any:
        """Return the callback that hears of each event before the user's; None without those."""
        if not self.users:
            return None
        from transformers import TrainerCallback

        class First(TrainerCallback):
            """Hears of each event before the user's callbacks."""

        def hearing(event: str) -> Callable[..., None]:
            return lambda callback, *args, **kwargs: self.before(event)

        for event in STEP:
            setattr(First, event, hearing(event))
        return First()

    def begins(self) -> None:
        """Note, as the first step begins, what was written and frozen until then."""
        if self.idle:
            return
        named = self._named()
        after = dict(zip(named, hashes(named.values()), strict=True))
        before = self._at_first
        self.changes.begun = [n for n in before if n in after and after[n] != before[n]]
        values = [named[name] for name in self.changes.begun]
        self.seen.begun_with = [*zip(values, to_host(values), strict=True)]
        if not own_modes(self.model):  # a train() of the model's own freezes stages on purpose
            self._note_frozen(named, self._trained_at_first)
        self._begun_from = self._sampled()

    def before(self, event: str) -> None:
        """Note what the callbacks may change."""
        if self.idle:
            return
        named = self._named()
        self._trainable = {name: p.requires_grad for name, p in named.items()}
        self._weights = self._sampled()
        if event == "on_pre_optimizer_step":
            # What was clipped, before they may change it.
            self.seen.steps[-1].norm_after_clip = total_norm(self.model)
            self._gradients = hashes(p.grad for p in named.values())
            self.changes.steps.append(StepChange(changed=_norm(self._weights, self._begun_from)))
        if event == "on_optimizer_step" and self._stepped_from is not None:
            self.changes.steps[-1].moved = _norm(self._weights, self._stepped_from)

    def after(self, event: str) -> None:
        """Note what they have changed."""
        if self.idle:
            return
        if not self.users:
            self.before(event)
        named, changes = self._named(), self.changes
        self._note_frozen(named, self._trainable)
        if event == "on_pre_optimizer_step":
            after = hashes(p.grad for p in named.values())
            for name, one, other in zip(named, self._gradients, after, strict=False):
                if one is not None and one != other:
                    changes.gradients[name] = "taken away" if other is None else "changed"
        weights = self._sampled()
        if changes.steps:
            changes.steps[-1].changed += _norm(weights, self._weights)
        if event == "on_pre_optimizer_step":
            self._stepped_from = weights
        elif event == "on_step_end" and changes.steps:
            changes.steps[-1].net = _norm(weights, self._stepped_from)
            self._begun_from = weights

    def _note_frozen(self, named: dict[str, Any], trainable: dict[str, bool]) -> None:
        frozen = [name for name, trained in trainable.items() if trained]
        known = dict.fromkeys((*self.changes.frozen, *frozen))
        self.changes.frozen = [n for n in known if n in named and not named[n].requires_grad]

    def _sampled(self) -> Tensor:
        import torch

        some = (sample(p) for p in self.model.parameters() if not is_sharded(p))
        parts = [one[:: max(1, len(one) // ELEMENTS)].double() for one in some]
        return torch.cat(parts) if parts else torch.zeros(0)


def _norm(one: Tensor | None, other: Tensor | None) -> float:
    if one is None or other is None or len(one) != len(other):
        return 0.0
    return float((one - other).norm())
