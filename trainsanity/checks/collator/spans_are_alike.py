"""TS316 collator.spans_are_alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.chat_template import ChatTemplate
from trainsanity.measurements.data.supervised import Supervised, most_common
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

RULE = 0.9
"""Share of runs that do the same from which it is taken for the rule: chosen.  A mixture of two
templates has none."""

FEW = 0.005
"""Share of runs that break the rule from which it is told: chosen.  One in 200 changes no curve."""

ENOUGH = 32
"""Runs that a share is taken of: with fewer, one alone is more than FEW of them."""


@check("TS316", "collator.spans_are_alike", needs=("tokenizer",), rules_out="span borders")
def spans_are_alike(
    pipeline: Pipeline, supervised: Supervised, chat_template: ChatTemplate
) -> Iterator[Measured | Finding]:
    """Trained spans start after the same header and end with the same token.

    What it checks: the token before each run of targets, the one that ends it, and the one that
    follows it, over the whole dataset where labels or masks are stored in it, else in 64 rows as
    the collator makes them.

    Why it matters: where nine runs in ten begin behind the same token, the others are mostly spans
    that were found by counting and lie beside their answer, or answers that hold the header's
    words. A special token that follows every run and is never a target is one that the model never
    learns to write.

    How it is measured: counts. A token that 90 % of at least 32 runs share is the rule; runs that
    differ are told from one in 200 on. Both are chosen, so that what is found is a warning. Runs
    that begin with their row, and the ends of rows that are as long as rows may be, are left out.

    How to fix: look at the rows with `trainsanity show`; take the mask from the template.

    Bad::

        labels[:len(tokenizer(prompt)["input_ids"])] = [-100] * ...  # counts an EOS of its own

    Good::

        tokenizer.apply_chat_template(messages, return_dict=True,
                                      return_assistant_tokens_mask=True)  # {% generation %}

    Known false alarms: a few rows of another template, or turns that end with a call of a tool.

    References: huggingface/trl#3927, meta-pytorch/torchtune#2453.
    """
    tokenizer = pipeline.tokenizer
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    parts = []
    for counted, side, by, words in (
        (supervised.before, "begin", "behind", "the spans lie beside their answers there"),
        (supervised.last, "end", "with", "the spans end before or behind their answers there"),
    ):
        total = counted.total()
        token, alike = next(most_common(counted), (None, 0))
        if token is None or total < ENOUGH or alike < RULE * total:
            continue
        if counted is supervised.last and token not in special:
            continue
        # Turns may end with one special token or another: with a call, or with a stop.
        ends = special if counted is supervised.last else {token}
        other = total - sum(n for one, n in counted.items() if one in ends)
        name = _name(tokenizer, token)
        parts.append(f"{alike:,} of {total:,} {side} {by} {name}")
        if other > FEW * total:
            odd = next(one for one, _ in most_common(counted) if one not in ends)
            yield Finding(
                f"{other:,} of {total:,} runs of targets do not {side} {by} {name} as the others "
                f"do, but mostly {by} {_name(tokenizer, odd)}: "
                f"{words}, or the rows are of another template",
                observed=other,
                expected=0,
                where=supervised.source,
                cause="spans that were found by lengths or by a key that does not fit every row",
                fix="take the mask from the chat template ({% generation %})",
                severity=Severity.WARNING,
            )
    left_out = _left_out(pipeline, supervised, chat_template, special)
    if left_out is not None:
        yield Finding(
            f"{_name(tokenizer, left_out)} follows {supervised.after[left_out]:,} of "
            f"{supervised.spans:,} runs of targets and is none: the model never learns to write it",
            observed=supervised.after[left_out],
            expected=0,
            where=supervised.source,
            cause="the mask ends one token before the token that closes an answer",
            fix="let the mask include it: write it inside {% generation %}",
            severity=Severity.WARNING,
        )
    shares = {
        name: round(counted / tokens, 4)
        for name, (tokens, counted) in sorted(supervised.roles.items())
        if tokens
    }
    yield Measured(
        f"targets are {supervised.told()}, in {supervised.source}; "
        + (
            f"of their {supervised.spans:,} runs {'; '.join(parts)}"
            if parts
            else f"{len(parts)} of 2 borders of their {supervised.spans:,} runs follow a rule"
        ),
        shares,
    )


def _left_out(
    pipeline: Pipeline, supervised: Supervised, template: ChatTemplate, special: set[int]
) -> int | None:
    """Return the special token that follows nearly every run; None if there is none.

    Without those that open the next message, and those that generation stops at, which
    collator.stop_is_taught judges.
    """
    token, count = next(most_common(supervised.after), (None, 0))
    if token not in special or count < max(ENOUGH, RULE * supervised.spans):
        return None
    last, ended = next(most_common(supervised.last), (None, 0))
    if last in special and ended >= RULE * supervised.last.total():
        return None
    opening = {header[0] for header in template.headers.values()}
    return None if token in opening | _stops(pipeline, template, special) else token


def _stops(pipeline: Pipeline, template: ChatTemplate, special: set[int]) -> set[Any]:
    named = getattr(getattr(pipeline.model, "generation_config", None), "eos_token_id", None)
    stops = set(named if isinstance(named, list) else [named])
    return {*stops, pipeline.tokenizer.eos_token_id, *(t for t in template.end if t in special)}


def _name(tokenizer: Any, token: int) -> str:
    return repr(str(tokenizer.decode([token])))
