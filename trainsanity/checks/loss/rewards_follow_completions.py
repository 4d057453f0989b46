"""TS536 loss.rewards_follow_completions."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS536",
    "loss.rewards_follow_completions",
    cost=Cost.STEP,
    rules_out="rewards of other completions",
)
def rewards_follow_completions(recording: Recording) -> Iterator[Measured | Finding]:
    """A completion has its own reward, wherever it stands in the batch.

    What it checks: each reward function is given the first batch of completions again, last one
    first, with its prompts and columns; the rewards have to come out in that order, too.

    Why it matters: a function that sorts, groups by a dictionary, zips columns of unequal lengths
    or keeps a counter gives rewards to other completions than it scored. The mean reward that is
    logged is the right one, and the policy learns noise.

    How it is measured: exact, for functions that give the same rewards when they are asked twice in
    one order; one that draws random numbers is not judged. Rewards that compare the completions of
    a prompt with each other do not depend on their order either. Models are not asked.

    How to fix: return one reward for each completion, in the order that they came in::

        # bad
        return sorted(score(one) for one in completions)
        # good
        return [score(one) for one in completions]

    Known false alarms: a reward for the place in a group, if somebody means that.

    References: huggingface/trl#6533, huggingface/trl#6680.
    """
    order = recording.reward_order
    if order is None or not order.asked:
        raise Skip("no reward function could be asked again")
    for name, strayed in order.strayed.items():
        yield Finding(
            f"{name} gives {strayed} of {order.completions} completions another reward when they "
            "come in reverse",
            observed=strayed,
            expected=0,
            where=name,
            cause="its rewards depend on the place in the batch: they are sorted, counted or "
            "zipped with something of another order",
            fix="return one reward for each completion, in the order of completions",
        )
    yield Measured(
        f"{len(order.asked)} reward functions asked again in reverse order for "
        f"{order.completions} completions: {sum(order.strayed.values())} rewards are others",
        sum(order.strayed.values()),
        0,
    )
