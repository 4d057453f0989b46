"""TS515 loss.advantages_are_centred."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.rollouts import MAKES, Rollouts
from trainsanity.objectives.preference import of_classes
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROUNDING = 1e-3
"""Share of the largest advantage that is rounding: a constant, since rewards of another origin lose
an unknown number of digits when their mean is taken away.  What is not centred is off by tenths."""


@check(
    "TS515",
    "loss.advantages_are_centred",
    cost=Cost.STEP,
    rules_out="groups of completions",
)
def advantages_are_centred(pipeline: Pipeline, rollouts: Rollouts) -> Iterator[Measured | Finding]:
    """The advantages of each prompt's completions sum to zero.

    What it checks: for TRL's GRPO and RLOO Trainers, the completions of the first batch by prompt:
    the sum of their advantages, and whether there are as many of each prompt as num_generations.

    Why it matters: a group is what an advantage is measured against. Where groups hold completions
    of several prompts, or the mean of the whole batch is taken away, completions are rewarded for
    an easy question.

    How it is measured: prompts are compared by their token ids, over all processes. A group's mean,
    and the leave-one-out baseline, leave a sum of 0; allowed is a thousandth of the largest
    advantage. Prompts that occur twice in a batch are one group, whose sum is 0 as well.

    How to fix: bad: a sampler of your own that yields every prompt once; (rewards - rewards.mean())
    over the batch. Good: shuffle_dataset=False for the order of the data, and

        grouped = rewards.view(-1, num_generations)
        advantages = (grouped - grouped.mean(1, keepdim=True)).flatten()

    Known false alarms: a baseline over the batch that is meant (REINFORCE++).

    References: dllm-reasoning/d1#19, XU-YIJIE/grpo-flat#2.
    """
    trainer = pipeline.trainer
    owner = getattr(getattr(type(trainer), MAKES, None), "__module__", "")
    if not of_classes(trainer, ("GRPOTrainer", "RLOOTrainer")) or ".experimental." in owner:
        raise Skip("advantages are not defined by groups here")
    largest = max(map(abs, rollouts.advantages), default=0.0)
    if not largest or math.isnan(largest):
        raise Skip("every advantage is 0 or NaN: loss.advantages_differ judges that")
    means = {
        prompt: sum(rollouts.advantages[k] for k in members) / len(members)
        for prompt, members in rollouts.groups.items()
    }
    off = [prompt for prompt, mean in means.items() if not within(abs(mean), ROUNDING * largest)]
    worst = max(map(abs, means.values()))
    sizes = sorted({len(members) for members in rollouts.groups.values()})
    broken = [size for size in sizes if size % rollouts.size]
    if off:
        yield Finding(
            f"the advantages of {len(off)} of {len(means)} prompts do not sum to zero within the "
            f"group: their mean is up to {worst:.3g}, the largest advantage {largest:.3g}",
            observed=worst,
            expected=0.0,
            where=f"prompts with {', '.join(map(str, broken or sizes))} completions each",
            cause=f"a prompt has {broken[0]} of its {rollouts.size} generations in the batch: "
            "groups mix completions of several prompts, the sampler does not repeat each prompt"
            if broken
            else "the baseline is not the mean of the prompt's own group: rewards are centred over "
            "the batch, or not at all",
            fix="keep TRL's sampler, which repeats each prompt num_generations times"
            if broken
            else "subtract the mean of each group of num_generations completions",
        )
    yield Measured(
        f"mean advantage of a prompt's completions up to {worst:.3g}, over {len(means)} prompts "
        f"with {', '.join(map(str, sizes))} completions; the largest advantage is {largest:.3g}",
        worst,
        0.0,
    )
