"""What a reference is for: asked of the user's loss with made-up predictions of both models.

In place of the logits that policy and reference return, the loss is given numbers that depend on
the token alone.  Nothing is known of the loss but its value.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

KINDS = 64
"""Different predictions: tokens whose ids have the same remainder are told the same."""

STEP = 2.0**-7
"""How far predictions are moved: enough to be seen through the rounding of a mean in float32, and
little enough that a slope is more than a bend."""

OTHERS = (3, 4, 5)
"""Seeds of other predictions: a choice of a few rows may come out the same."""

SAME = 1e-4
"""Part of a loss by which two constants may differ: sums of one number in float32 are rounded, and
a likelihood under other predictions differs by tenths."""


class Role(Enum):
    """How a reference enters a loss."""

    REWARD = "to reward what the policy says more than it"
    TEACHER = "as a teacher"
    CHOICE = "to choose tokens or rows"
    BESIDE = "beside a loss that does without it"


Ask = Callable[[], float]


def role_of(ask: Ask, policy: Any, references: Iterator[Any] | list[Any]) -> Role | None:
    """Return what the references are for; None where the loss does not read their logits.

    A loss of implicit rewards (DPO, a policy gradient with a ratio) is a constant wherever both
    models say the same, and has a slope there.  A teacher's has no slope there.  A choice does
    not change while the reference moves a little.

    Args:
        ask: computes the loss of always the same batch, without noise.
        policy: the model that is trained.
        references: the others.
    """
    others = list(references)

    def value(own: _Table, theirs: _Table) -> float:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_saying(policy, own))
            for one in others:
                stack.enter_context(_saying(one, theirs))
            return ask()

    first, second = _Table(0), _Table(1)
    alike, apart = value(first, first), value(first, second)
    moved = [value(first, second.moved(step)) for step in (STEP, -STEP)]
    others_say = [apart, *moved, *(value(first, _Table(seed)) for seed in OTHERS)]
    if all(one == alike for one in others_say):
        return None
    if any(one == apart for one in moved):
        return Role.CHOICE
    ahead, behind = (value(first.moved(step), first) for step in (STEP, -STEP))
    if not abs(ahead - behind) > abs(ahead + behind - 2 * alike):
        return Role.TEACHER
    elsewhere = value(second, second)
    constant = abs(elsewhere - alike) <= SAME * max(1.0, abs(alike))
    return Role.REWARD if constant else Role.BESIDE


class _Table:
    """Logits by a token's id, the same for every model."""

    def __init__(self, seed: int, step: float = 0.0) -> None:
        self.seed, self.step = seed, step

    def moved(self, step: float) -> _Table:
        """Return the same logits, each a little off in a direction of its own."""
        return _Table(self.seed, step)

    def logits(self, ids: Tensor, like: Tensor) -> Tensor:
        """Return logits of a shape, for ids that may be more than it has positions."""
        import torch

        draw = torch.Generator().manual_seed(self.seed)
        table = torch.randint(-8, 9, (KINDS, like.shape[-1]), generator=draw) / 4
        if self.step:
            noise = torch.Generator().manual_seed(2)
            table = table + self.step * torch.randn(table.shape, generator=noise)
        dtype = torch.promote_types(like.dtype, torch.float32)
        told: Tensor = table.to(like.device, dtype)[ids[:, -like.shape[1] :] % KINDS]
        path = like.to(dtype).clamp(-1, 1)  # a gradient has its way back
        return told + (path - path.detach()) if like.requires_grad else told


@contextlib.contextmanager
def _saying(model: Any, table: _Table) -> Iterator[None]:
    """Let a model return a table's logits in place of its own."""
    import torch

    def answered(_module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        ids = kwargs.get("input_ids", next(iter(args), None))
        logits = output.get("logits") if isinstance(output, Mapping) else None
        if torch.is_tensor(output):
            logits = output
        if not torch.is_tensor(ids) or not torch.is_tensor(logits) or logits.dim() != 3:
            return None
        if ids.dim() != 2 or len(ids) != len(logits) or ids.shape[1] < logits.shape[1]:
            return None
        told = table.logits(ids, logits)
        if torch.is_tensor(output):
            return told
        changed = copy.copy(output)
        changed["logits"] = told
        return changed

    handle = model.register_forward_hook(answered, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
