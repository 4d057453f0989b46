"""TS708 update.modes_change_no_weights."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.switching import Switching
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS708",
    "update.modes_change_no_weights",
    cost=Cost.STATIC,
    rules_out="a train() of one's own",
)
def modes_change_no_weights(switching: Switching) -> Iterator[Measured | Finding]:
    """Switching between train and eval mode changes no weights and freezes nothing for good.

    What it checks: the values of all parameters before and after ``train()`` and ``eval()`` of a
    model that overrides them; and whether a parameter that is trainable in training is so again
    after an evaluation.

    Why it matters: ``train()`` is called before every step and ``eval()`` before every evaluation.
    What they write, they write again each time: weights that are scaled, merged or averaged there
    change with the number of evaluations, and the optimizer knows nothing of it.  A model that
    ``eval()`` freezes and ``train()`` does not thaw stops learning at the first evaluation.

    How it is measured: exact.  Hashes of the parameters around ``train()``, ``eval()`` and
    ``train()``, which are put back afterwards; ``requires_grad`` after the first and the last of
    them.  Where no module overrides them there is nothing to call.  What the model's first
    ``train()`` freezes is a choice: update.freezing_is_real asks whether it happens.

    How to fix: change copies, and undo in ``train(True)`` what ``train(False)`` did::

        # bad
        def train(self, mode=True):
            if not mode:
                self.requires_grad_(False)
            return super().train(mode)
        # good: gradients are off in evaluation as it is
        def train(self, mode=True):
            return super().train(mode)

    Known false alarms: adapters that are merged in ``eval()`` and taken out again in ``train()``
    leave roundings behind, which add up; merge them into a copy for evaluation.

    References: read: microsoft/LoRA ``Linear.train``, which merges and unmerges;
    ``torch.nn.Module.train``.
    """
    named = " and ".join(switching.overrides)
    if switching.written:
        yield Finding(
            f"train() and eval() change the values of {len(switching.written)} of "
            f"{switching.parameters} parameters",
            observed=len(switching.written),
            expected=0,
            where=", ".join(switching.written[:3]),
            cause=f"{named} writes to weights, each time that a step or an evaluation begins",
            fix="write to a copy, or in the optimizer's step",
        )
    if switching.kept_frozen:
        yield Finding(
            f"{len(switching.kept_frozen)} of {switching.parameters} parameters are frozen after "
            "eval() and train(), which are trainable after train() alone",
            observed=len(switching.kept_frozen),
            expected=0,
            where=", ".join(switching.kept_frozen[:3]),
            cause=f"{named} freezes them in evaluation and does not thaw them",
            fix="leave requires_grad alone in eval(): no gradients are taken there",
        )
    yield Measured(
        f"train() and eval(), with {named or 'no override'}, change the values of "
        f"{len(switching.written)} of {switching.parameters} parameters and leave "
        f"{len(switching.kept_frozen)} frozen that were trainable",
        len(switching.written) + len(switching.kept_frozen),
        0,
    )
