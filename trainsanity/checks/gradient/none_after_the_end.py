"""TS610 gradient.none_after_the_end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.chat_template import ChatTemplate
from trainsanity.measurements.step.rollouts import Rollouts
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


MOST = 0.5
"""Share of the completions that go on after the end of their turn, from which it is no chance."""


@check(
    "TS610",
    "gradient.none_after_the_end",
    cost=Cost.STEP,
    rules_out="tokens after the end",
)
def none_after_the_end(
    pipeline: Pipeline, rollouts: Rollouts, chat_template: ChatTemplate
) -> Iterator[Measured | Finding]:
    """Tokens after the end of a completion are not trained.

    What it checks: in each generated completion, the tokens after its first EOS that
    completion_mask counts; and those after the special token with which the chat template ends an
    answer.

    Why it matters: what follows an end is filling. It is trained with the completion's advantage,
    dozens of ends after the end, and lengths, length penalties and means over tokens are those of
    the longest completion.  Where the tokenizer's EOS is not what ends a turn, nothing stops a
    policy that has ended its answer: it goes on with the user's next question, and reward and loss
    are of that, too.

    How it is measured: exact. An end is the tokenizer's EOS. Completions that go on after an end,
    as conversations with tools do, are skipped. Going on after the template's end is a failure
    where half of the completions do, a warning where some do: a policy without any training says
    that token by chance.

    How to fix: bad: mask = completion_ids != pad_token_id where PAD is EOS or EOS is the filling.
    Good:

        is_end = completion_ids == eos_token_id
        mask = (is_end.cumsum(1) - is_end.long()) == 0

    And a turn's end at which generation stops:

        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")

    Known false alarms: a rollout function of your own whose completions hold several turns.

    References: bingreeky/MemGen#33, QwenLM/Qwen3#927, axolotl-ai-cloud/axolotl#2073.
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
    turn = _end_of_turn(pipeline, chat_template, end)
    beyond = [_counted_behind(turn, *one) for one in zip(rollouts.ids, rollouts.mask, strict=True)]
    going_on = sum(map(bool, beyond))
    if turn is not None and going_on:
        k = beyond.index(max(beyond))
        name = pipeline.tokenizer.convert_ids_to_tokens(turn)
        yield Finding(
            f"{going_on} of {len(beyond)} completions go on after {name!r}, with which the chat "
            f"template ends an answer: up to {max(beyond)} tokens behind it are counted, for "
            f"generation does not stop there (eos, id {end})",
            observed=sum(beyond),
            expected=0,
            where=f"completion {k}",
            cause="the tokenizer's EOS is the base model's, and the template ends a turn with "
            "another token",
            fix=f"tokenizer.eos_token = {name!r}, and "
            "model.generation_config.eos_token_id = tokenizer.eos_token_id",
            severity=Severity.FAILURE if going_on >= MOST * len(beyond) else Severity.WARNING,
        )
    yield Measured(
        f"completion_mask counts {sum(after)} tokens after an end, in {sum(map(bool, after))} of "
        f"{len(after)} completions",
        sum(after),
        0,
    )


def _end_of_turn(pipeline: Pipeline, template: ChatTemplate, end: int) -> int | None:
    """Return the special token that ends an answer, if generation does not stop at it."""
    config = getattr(unwrapped(pipeline.model), "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    stops = {end, *(named if isinstance(named, list | tuple) else [named])}
    closing = [token for token in template.end if token in template.special]
    return closing[0] if closing and stops.isdisjoint(closing) else None


def _counted_behind(token: int | None, ids: list[int], mask: list[int]) -> int:
    """Return how many counted tokens a completion has behind the first of this one."""
    return sum(mask[ids.index(token) + 1 :]) if token in ids else 0
