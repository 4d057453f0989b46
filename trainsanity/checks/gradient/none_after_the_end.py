"""TS610 gradient.none_after_the_end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.rollouts import Rollouts
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS610",
    "gradient.none_after_the_end",
    cost=Cost.STEP,
    rules_out="tokens after the end",
)
def none_after_the_end(pipeline: Pipeline, rollouts: Rollouts) -> Iterator[Measured | Finding]:
    """Tokens after the end of a completion are not trained.

    What it checks: in each generated completion, the tokens after its first EOS that
    completion_mask counts.

    Why it matters: what follows an end is filling. It is trained with the completion's advantage,
    dozens of ends after the end, and lengths, length penalties and means over tokens are those of
    the longest completion.

    How it is measured: exact. An end is the tokenizer's EOS. Completions that go on after an end,
    as conversations with tools do, are skipped.

    How to fix: bad: mask = completion_ids != pad_token_id where PAD is EOS or EOS is the filling.
    Good:

        is_end = completion_ids == eos_token_id
        mask = (is_end.cumsum(1) - is_end.long()) == 0

    Known false alarms: a rollout function of your own whose completions hold several turns.

    References: bingreeky/MemGen#33.
    """
    end = getattr(pipeline.tokenizer, "eos_token_id", None)
    if end is None or rollouts.tools:
        raise Skip("completions have no end, or go on after one")
    after = []
    for ids, mask in zip(rollouts.ids, rollouts.mask, strict=True):
        at = ids.index(end) if end in ids else len(ids)
        after.append(sum(mask[at + 1 :]))
    longest = max(after, default=0)
    if longest:
        k = after.index(longest)
        yield Finding(
            f"{sum(map(bool, after))} of {len(after)} completions are trained on what follows "
            f"their end: up to {longest} tokens after the first EOS are counted",
            observed=sum(after),
            expected=0,
            where=f"completion {k}",
            cause="completion_mask does not stop at EOS: it asks for padding only",
            fix="mask everything after the first EOS",
        )
    yield Measured(
        f"completion_mask counts {sum(after)} tokens after an end, in {sum(map(bool, after))} of "
        f"{len(after)} completions",
        sum(after),
        0,
    )
