"""TS544 loss.rewards_see_their_tags."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS544",
    "loss.rewards_see_their_tags",
    cost=Cost.STEP,
    rules_out="tags that decoding leaves out",
)
def rewards_see_their_tags(recording: Recording) -> Iterator[Measured | Finding]:
    """What a reward function looks for is in the text that it is given.

    What it checks: each reward function that gave all of the first completions one reward: whether
    special tokens of the tokenizer stand in its code, and it pays more as soon as completions hold
    them.

    Why it matters: completions are decoded without special tokens. If `<think>` is one, as in many
    tokenizers of reasoning models, a reward for the format finds no tag in any answer: it pays
    nothing whatever the model writes, and the other rewards train it alone.

    How it is measured: exact. The completions come once more, every second one with these tokens
    around its text, in the order in which they stand in the code. That these are paid more, and
    that no completion as it was given has any of these tokens, is the finding. One reward for all
    is no fault by itself: at the first step a model may write no tag.

    How to fix: add tags as tokens that are not special, or decode `completion_ids` yourself::

        # bad
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
        # good
        tokenizer.add_tokens(["<think>", "</think>"])

    Known false alarms: none known.

    References: huggingface/trl#2897.
    """
    order = recording.reward_order
    if order is None or not order.asked:
        raise Skip("no reward function could be asked again")
    for name, tokens in order.unseen.items():
        told = " and ".join(map(repr, tokens[:4]))
        yield Finding(
            f"{name} gives all of {order.completions} completions one reward, and looks for "
            f"{told}: special tokens, which are left out where completions are decoded; with them "
            "in the text it pays more",
            observed=list(tokens),
            expected="text as it is decoded",
            where=name,
            cause="completions are decoded with skip_special_tokens=True",
            fix="add the tags with tokenizer.add_tokens(...), not as special tokens, or decode "
            "completion_ids in the reward function",
        )
    yield Measured(
        f"{len(order.unseen)} of {len(order.asked)} reward functions look for special tokens that "
        "decoding leaves out",
        len(order.unseen),
        0,
    )
