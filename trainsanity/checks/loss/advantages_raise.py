"""TS551 loss.advantages_raise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

FEW = 4
"""Rows with an advantage whose tokens all move one way, from which on their directions count: of
four that are drawn at random all are opposite in one of sixteen cases, and no gradient is drawn."""

MOST = 0.9
"""Share of a row's tokens that have to move one way: a penalty or a clipped ratio turns some."""


@check(
    "TS551",
    "loss.advantages_raise",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="direction of the policy's update",
)
def advantages_raise(recording: Recording) -> Iterator[Measured | Finding]:
    """A step makes answers with a positive advantage likelier, and others less likely.

    What it checks: the direction in which the first step's gradient moves the tokens of each row
    whose batch brings an advantage.

    Why it matters: reinforcement learning maximises, optimizers minimise, and somewhere a minus
    stands between them. Written twice, or not at all, the best answers are unlearnt: the reward
    falls slowly, as it does in runs that are only unlucky.

    How it is measured: exact, and read off the gradient at the logits. A step against it raises a
    token whose own slope is negative, where that slope has 40 % of the position's gradient at least
    (a half, exactly, for a logarithm of a softmax). A row counts if nine tenths of its tokens move
    one way; with four such rows or more all of them have to move with their advantage. Rows are
    found by `advantage` in the name of a batch's tensor, one number a row or a token.

    How to fix: one minus.

    Bad::

        loss = -(-logps * advantages).mean()

    Good::

        loss = -(logps * advantages).mean()

    Known false alarms: what is called an advantage, and is a cost.

    References: fla-org/flash-linear-attention#1073.
    """
    rows = [one for micro in recording.first.micro_steps for one in _rows(recording, micro.inputs)]
    if len(rows) < FEW:
        raise Skip("no advantages come with the batch, or its rows' tokens move both ways")
    against = sum(advantage * direction < 0 for advantage, direction in rows)
    if against == len(rows):
        yield Finding(
            f"in all {len(rows)} rows the tokens move against their advantage: those of answers "
            "that were better than expected become less likely",
            observed=against,
            expected=0,
            cause="the sign of the loss is that of the objective, which is to be maximised",
            fix="minimise -(log-probabilities x advantages): one minus, and not two or none",
        )
    yield Measured(
        f"the tokens of {against} of {len(rows)} rows move against their advantage", against, 0
    )


def _rows(recording: Recording, inputs: dict[str, Any]) -> Iterator[tuple[float, int]]:
    """Yield advantage and direction, 1 or -1, of each row whose tokens move one way."""
    import torch

    name = next((n for n in inputs if "advantage" in n and torch.is_tensor(inputs[n])), None)
    if name is None:
        return
    advantages = inputs[name].detach().float().cpu()
    advantages = advantages.reshape(len(advantages), -1).sum(1)
    for rise in recording.pulls.rises:
        if len(rise.ids) != len(advantages) or not _given(inputs, rise.ids):
            continue
        for advantage, up, down in zip(
            advantages.tolist(), rise.raised.tolist(), rise.lowered.tolist(), strict=True
        ):
            if advantage and up + down and max(up, down) >= MOST * (up + down):
                yield advantage, 1 if up > down else -1


def _given(inputs: dict[str, Any], ids: Tensor) -> bool:
    """Return whether a batch holds the end of these ids: the answers, or prompts and answers."""
    import torch

    for value in inputs.values():
        if not torch.is_tensor(value) or value.dim() != 2 or value.is_floating_point():
            continue
        width = value.shape[1]
        if 0 < width <= ids.shape[1] and len(value) == len(ids):
            end = ids[:, -width:]
            if int(value.max()) > 1 and bool((value.cpu() == end).all()):
                return True
    return False
