"""TS514 loss.advantages_differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.rollouts import Rollouts
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS514",
    "loss.advantages_differ",
    cost=Cost.STEP,
    rules_out="rewards that are all equal",
)
def advantages_differ(pipeline: Pipeline, rollouts: Rollouts) -> Iterator[Measured | Finding]:
    """Some completion of a prompt is rewarded above the others.

    What it checks: the advantages of the completions that the policy generates for the first batch
    of prompts, and whether any of these completions is counted by the loss at all; where all are 0
    up to three further batches.

    Why it matters: GRPO and RLOO compare the completions of one prompt with each other. Where all
    are rewarded alike every advantage is 0, and so is the gradient, while the loss that is logged
    is 0.0 in healthy runs, too. Completions that are cut off before they end are left out of the
    loss if mask_truncated_completions is set.

    How it is measured: the Trainer's own generation and reward functions. Groups of equal rewards
    are usual, with rewards of 0 and 1 also whole batches of them: a failure is that no completion
    of four batches of prompts has an advantage, that one is NaN, or that no token is counted.
    Completions for which every reward function returns None or NaN are rewarded 0 by the Trainer,
    which is a warning.

    How to fix: bad: a reward of 1 where "####" stands in an answer that was never asked for it,
    None where the parser finds nothing. Good: print the rewards of a few completions first,

        print(reward([[{"role": "assistant", "content": "#### 4"}]], answer=["4"]))

    and a max_completion_length that answers fit into.

    Known false alarms: a reward so rare that four batches have none; then nothing is learnt until
    one comes.

    References: huggingface/trl#3452, modelscope/ms-swift#4570, #4950, #8123, huggingface/trl#3857.
    """
    count = len(rollouts.advantages)
    used = sum(any(counted) for counted in rollouts.mask)
    asked = 1 + len(rollouts.further)
    flat = rollouts.largest == 0 and not any(rollouts.further)
    if rollouts.counted == 0:
        limit = getattr(pipeline.args, "max_completion_length", None)
        yield Finding(
            f"not a token of {count} completions is counted: all are masked out of the loss",
            observed=0,
            expected="at least one completion",
            where="completion_mask",
            cause=f"every completion is truncated at max_completion_length {limit}, none reaches "
            "its end, and mask_truncated_completions leaves those out"
            if getattr(pipeline.args, "mask_truncated_completions", False)
            else "completion_mask is 0 everywhere",
            fix="raise max_completion_length until completions end within it, or see that the "
            "model's EOS is one that generation stops at",
        )
    elif math.isnan(rollouts.largest):
        yield Finding(
            "an advantage is NaN",
            observed=None,
            expected="numbers",
            where="advantages",
            cause=_why(rollouts),
            fix="return a number, or None where a reward function does not apply",
        )
    elif flat:
        yield Finding(
            f"no completion has an advantage: {count} completions of {len(rollouts.groups)} "
            f"prompts, in {asked} batches, are rewarded like the rest of their group",
            observed=0.0,
            expected="above 0 for some completion",
            where="reward functions",
            cause=_why(rollouts),
            fix="print the rewards of a few completions, and let them differ within a group",
        )
    unrewarded = _unrewarded(rollouts)
    if 0 < unrewarded < count and rollouts.counted:
        yield Finding(
            f"{unrewarded} of {count} completions have no reward: every reward function returns "
            "None or NaN for them, and they count as 0",
            observed=unrewarded,
            expected=0,
            where="reward functions",
            cause="a parser that finds nothing, or a division by 0",
            fix="return the lowest reward for what cannot be judged, or leave such prompts out",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{used} of {count} completions are counted; the largest advantage among them is "
        f"{rollouts.largest:.3g}, in further batches {_further(rollouts)}",
        None if math.isnan(rollouts.largest) else rollouts.largest,
        "above 0",
    )


def _unrewarded(rollouts: Rollouts) -> int:
    """Return how many completions no reward function gives a number."""
    columns = [values for values in rollouts.rewards.values() if values]
    return sum(all(map(math.isnan, one)) for one in zip(*columns, strict=False))


def _further(rollouts: Rollouts) -> str:
    return ", ".join(f"{value:.3g}" for value in rollouts.further) or "not asked"


def _why(rollouts: Rollouts) -> str | None:
    """Return what the rewards of the first batch show."""
    rewards = {name: values for name, values in rollouts.rewards.items() if values}
    if not rewards:
        return None
    if all(math.isnan(value) for values in rewards.values() for value in values):
        names = ", ".join(rewards)
        return f"every reward is None or NaN: {names} never applies"
    spread = {
        name: [value for value in values if not math.isnan(value)]
        for name, values in rewards.items()
    }
    same = [name for name, values in spread.items() if values and max(values) == min(values)]
    if len(same) == len([name for name, values in spread.items() if values]):
        told = ", ".join(f"{name} always returns {spread[name][0]:g}" for name in same)
        return f"rewards are all equal: {told}"
    groups = rollouts.groups.values()
    within_groups = [
        name
        for name, values in rewards.items()
        if any(len({values[k] for k in group if k < len(values)}) > 1 for group in groups)
    ]
    if not within_groups:
        return (
            "rewards differ between prompts and are equal within each group: they are computed "
            "from the prompt, not from the completion"
        )
    if len(within_groups) > 1:
        return (
            f"{' and '.join(within_groups)} differ within groups, and their weighted sum does "
            "not: they cancel"
        )
    return None
