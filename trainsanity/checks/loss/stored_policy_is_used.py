"""TS545 loss.stored_policy_is_used."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS545",
    "loss.stored_policy_is_used",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="old log-probabilities",
)
def stored_policy_is_used(policy: Policy) -> Iterator[Measured | Finding]:
    """A policy is compared with the log-probabilities that its batch brings, not with itself.

    What it checks: where the batch brings log-probabilities of an old or a reference policy
    (`old_log_probs`, `ref_logps` ...), whether the loss reads them.

    Why it matters: PPO's ratio of new to old probabilities keeps an update close to the policy that
    wrote the answers. Made of the new policy and its own detached values it is always 1: nothing
    is ever clipped, and what was sampled some steps ago is trained on as if it were of today.

    How it is measured: exact, every layer in eval mode. Each stored tensor is lowered by 1; a loss
    that is the same in every digit does not read it. That alone may be meant, as values are
    brought along to be logged. It is a finding if the loss has a gradient and keeps its value
    under other weights of the policy, too: only a ratio to itself does both.

    How to fix: take the old values from the batch.

    Bad::

        ratio = (logps - logps.detach()).exp()

    Good::

        ratio = (logps - batch["old_log_probs"]).exp()

    Known false alarms: none known. Where the loss has other terms that change with the weights, as
    an entropy, nothing is said.

    References: higgsfield-ai/higgsfield#20.
    """
    if not policy.brought:
        raise Skip("the batch brings no log-probabilities of an old or a reference policy along")
    for name in policy.unread:
        yield Finding(
            f"the loss does not read {name}, and keeps its value under other weights while it has "
            "a gradient: the policy is compared with itself, and the ratio is always 1",
            observed=name,
            expected="a loss that changes with it",
            where=name,
            cause="the old log-probabilities are the new ones, detached",
            fix=f"take them from the batch: (logps - batch[{name!r}]).exp()",
        )
    yield Measured(
        f"the batch brings {', '.join(policy.brought)}; in place of {len(policy.unread)} of these "
        "the loss takes the policy itself",
        len(policy.unread),
        0,
    )
