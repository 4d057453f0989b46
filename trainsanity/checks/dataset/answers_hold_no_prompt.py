"""TS214 dataset.answers_hold_no_prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.data.pairs import Pairs, common_prefix
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MEANS = ("ipo", "sigmoid_norm", "simpo")
"""Loss types that take a mean over an answer's tokens."""

SHARE = 0.1
"""Share of the pairs: a constant, as in dataset.pairs_differ."""


@check(
    "TS214",
    "dataset.answers_hold_no_prompt",
    needs=("train_dataset", "data_collator"),
    rules_out="prompt in the answers",
)
def answers_hold_no_prompt(pipeline: Pipeline, pairs: Pairs) -> Iterator[Measured | Finding]:
    """The answers of a pair hold no turns that belong to the prompt.

    What it checks: whether the tokens that both sides count as their answer begin with the same
    whole turns of a conversation: a common prefix with an end of turn inside.

    Why it matters: shared turns belong to the prompt. In a sum of log-probabilities they cancel
    out. In a mean over the answer's tokens (IPO, SimPO, ORPO, sigmoid_norm) they dilute the
    difference, and where the answer's likelihood is trained besides, so are the user's words.

    How it is measured: exact comparison of the counted token ids of up to 256 pairs; the end of a
    turn is EOS of tokenizer or generation_config. A failure where the loss takes a mean, a
    warning where it takes a sum.

    How to fix: bad: prompt = messages[:1], chosen = messages[1:] of a longer conversation. Good:
    everything but the last message is the prompt:

        row["prompt"], row["chosen"] = messages[:-1], messages[-1:]

    Known false alarms: answers of several turns that are meant to be compared as a whole and begin
    alike.

    References: huggingface/trl#1581.
    """
    ends = _ends(pipeline)
    counted = [
        (chosen.counted, rejected.counted)
        for chosen, rejected in pairs.both
        if chosen.counted and rejected.counted and chosen.ids != rejected.ids
    ]
    if not counted or not ends:
        raise Skip("the batches do not say which tokens are the answer, or nothing ends a turn")
    shared, turns = [], []
    for k, (chosen, rejected) in enumerate(counted):
        size = common_prefix(chosen, rejected)
        shared.append(size / max(1, min(len(chosen), len(rejected))))
        if any(token in ends for token in chosen[:size]):
            turns.append(k)
    share = sum(shared) / len(shared)
    if len(turns) >= SHARE * len(counted):
        means = _takes_means(pipeline)
        yield Finding(
            f"in {len(turns)} of {len(counted)} pairs both answers begin with the same whole "
            f"turns, which belong to the prompt: {share:.0%} of the counted tokens are shared",
            observed=share,
            expected=0.0,
            where=f"pair {turns[0]}",
            cause="only the first message was taken for the prompt",
            fix="move every message before the last one, the user's words with them, into prompt",
            severity=Severity.FAILURE if means else Severity.WARNING,
        )
    yield Measured(
        f"a common prefix is {share:.0%} of the answers' counted tokens; it holds a whole turn in "
        f"{len(turns)} of {len(counted)} pairs",
        share,
    )


def _ends(pipeline: Pipeline) -> set[int]:
    config = getattr(pipeline.model, "generation_config", None)
    found: set[int] = set()
    for value in (
        getattr(pipeline.tokenizer, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
    ):
        found |= {value} if isinstance(value, int) else set(value or ())
    return found


def _takes_means(pipeline: Pipeline) -> bool:
    trainer: Any = pipeline.trainer
    if "ORPOTrainer" in {cls.__name__ for cls in type(trainer).__mro__}:
        return True
    kinds = getattr(pipeline.args, "loss_type", None) or ()
    return bool({kinds} if isinstance(kinds, str) else set(kinds)) and any(
        kind in MEANS for kind in ([kinds] if isinstance(kinds, str) else kinds)
    )
