"""TS315 collator.stop_is_taught."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.answers import runs
from trainsanity.measurements.batches.chat_template import (
    ASSISTANT,
    USER,
    ChatTemplate,
    Message,
    messages_in,
)
from trainsanity.measurements.batches.documents import (
    CONVERSATION_COLUMNS,
    Document,
    Documents,
    in_training_order,
)
from trainsanity.measurements.data.special_tokens import SpecialTokens
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 0.5
"""Share of rows without a stop from which the model rather goes on than stops."""

SHORT, AGAIN = 4, 8
"""Tokens of a class's name, at the most, and how often each comes on average, at the least.
Chosen: four classes show so among 32 rows, and answers that are written do not come again."""

CUT_MOST, CUT_SOME = 2 / 3, 0.1
"""Shares of rows that lose their end to max_length, from which this is a failure and a warning."""


@check(
    "TS315",
    "collator.stop_is_taught",
    needs=("tokenizer",),
    follows=("collator.labels_aligned", "collator.rows_have_targets"),
    rules_out="never stops",
)
def stop_is_taught(
    pipeline: Pipeline,
    documents: Documents,
    chat_template: ChatTemplate,
    special_tokens: SpecialTokens,
) -> Iterator[Measured | Finding]:
    """Answers are trained to end with EOS or the end-of-turn token.

    What it checks: whole rows of questions and answers, those of a tokenizer with a chat template
    among them: behind the answer, a token at which generation stops has a label that the loss
    counts.  Plain text, and text in blocks of one length, owes no stop.

    Why it matters: a model that is never taught an end of turn writes on until max_new_tokens,
    whatever its loss.  It happens with texts that are tokenized without EOS, with PAD == EOS and a
    collator that ignores padding, with a mask that ends one token early, and with a template whose
    end of turn is not the token that generation stops at.

    How it is measured: exact, on 64 rows of the training data as the user's collator labels them.
    Generation stops at generation_config.eos_token_id as it is inside ``train()``, or, without
    one, at the tokenizer's EOS and the template's end of turn.  Rows as long as max_length, or as
    the longest row, may have lost their end and are left out; where most rows reach max_length that
    is reported instead.

    How to fix: end each row with the token that generation stops at, and keep its label.

    Bad::

        tokenizer.pad_token = tokenizer.eos_token  # its labels become -100
        rows = [tokenizer(question + answer) for question, answer in data]

    Good::

        rows = [tokenizer(question + answer + tokenizer.eos_token) for question, answer in data]
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")

    A model that is to play the user owes the same behind the user's messages, where these are all
    that is trained.

    Known false alarms: inference that stops by a string or by stop_token_ids of its own; texts
    without an end by intent beside a tokenizer that has a chat template.  Some rows without a stop
    among others are a warning: a conversation may end with a question.  So are answers that are
    classes, a single token or a few short ones that come again and again: which is likelier may be
    all that is asked of the model.

    References: huggingface/trl#931, huggingface/trl#5988, huggingface/transformers#34209,
    hiyouga/LlamaFactory#7454, tatsu-lab/stanford_alpaca#126, unslothai/unsloth#3019.
    """
    if not _owed(pipeline, documents):
        raise Skip("plain text, without questions and answers, owes no end")
    stops = _stops(pipeline, chat_template, special_tokens)
    if not stops:
        raise Skip("neither generation_config nor the tokenizer says where generation stops")
    judge = _Judge(pipeline.tokenizer, chat_template, stops)
    names = ", ".join(map(repr, judge.names(sorted(stops))))
    reached = [one for one in documents.found if one.raw and _reaches(one, documents.limit)]
    lost = [one for one in reached if _is_conversation(one.raw) and not judge.taught(one)]
    lost_share = len(lost) / len(documents.found)
    if lost_share >= CUT_SOME:
        yield Finding(
            f"{len(lost)} of {len(documents.found)} rows are cut at max_length "
            f"{documents.limit}: truncation takes the end of the answer, and with it the token "
            "that ends generation",
            observed=len(lost),
            expected=0,
            where=in_training_order(lost[0].row),
            cause=f"max_length={documents.limit} is shorter than the conversations",
            fix="raise max_length, or leave out the rows that are longer",
            severity=Severity.FAILURE if lost_share >= CUT_MOST else Severity.WARNING,
        )
    whole = documents.whole
    if not whole and lost_share < CUT_SOME:
        raise Skip("no row is whole: all are blocks of one length, or cut at max_length")
    # Rows without any target are collator.rows_have_targets' matter.
    whole = [one for one in whole if one.counted]
    missing = [one for one in whole if not judge.taught(one)]
    if missing:
        cause, fix = judge.explain(missing, pipeline)
        yield Finding(
            f"{len(missing)} of {len(whole)} whole rows have no target that ends generation "
            f"behind their answer: the model never learns to stop there (generation stops at "
            f"{names}; the last of these rows ends with {judge.ending(missing[-1])!r})",
            observed=len(missing),
            expected=0,
            where=in_training_order(missing[0].row),
            cause=cause,
            fix=fix,
            severity=Severity.FAILURE
            if len(missing) > MOST * len(whole) and not _of_a_set(missing, stops)
            else Severity.WARNING,
        )
    yield Measured(
        f"{len(whole) - len(missing)} of {len(whole)} whole rows have a target that ends "
        f"generation behind their answer (generation stops at {names}); "
        f"{len(lost)} of {len(documents.found)} rows lose theirs to max_length",
        len(missing),
        0,
    )


def _owed(pipeline: Pipeline, documents: Documents) -> bool:
    if getattr(pipeline.tokenizer, "chat_template", None):
        return True
    return any(_is_conversation(one.raw) or _partly(one) for one in documents.found)


def _of_a_set(rows: Sequence[Document], stops: Collection[int]) -> bool:
    """Return whether answers are single tokens, or a few short ones that come again and again.

    They are classes: what is read is which of them is likelier, and nothing is written after it.
    Where a stop stands behind them, it was meant to be taught.
    """
    if any(token in stops for one in rows for token in one.ids[one.counted[-1] + 1 :]):
        return False
    answers = [tuple(one.labels[t] for t in one.counted) for one in rows]
    several = [one for one in answers if len(one) > 1]
    return not several or (
        max(map(len, several)) <= SHORT and len(set(answers)) * AGAIN <= len(answers)
    )


def _is_conversation(raw: Mapping[str, Any]) -> bool:
    return any(name in raw for name in CONVERSATION_COLUMNS)


def _partly(one: Document) -> bool:
    """Return whether some of the row is a target, and some beside its first token is not."""
    return bool(one.counted) and len(one.counted) < len(one.ids) - 1


def _reaches(one: Document, limit: int | None) -> bool:
    return limit is not None and len(one.ids) >= limit


def _stops(
    pipeline: Pipeline, template: ChatTemplate, special_tokens: SpecialTokens
) -> frozenset[int]:
    named = special_tokens.named.get("model.generation_config", {}).get("eos_token_id")
    if named is not None:
        return frozenset(named if isinstance(named, list) else [named])
    special = set(pipeline.tokenizer.all_special_ids)
    found = {pipeline.tokenizer.eos_token_id, *(t for t in template.end if t in special)}
    return frozenset(found - {None})


class _Judge:
    """Tells whether a row teaches a stop, and why one does not."""

    def __init__(self, tokenizer: Any, template: ChatTemplate, stops: Collection[int]) -> None:
        self.tokenizer, self.template, self.stops = tokenizer, template, stops
        known = getattr(tokenizer, "added_tokens_decoder", {})
        self.closing = {*tokenizer.all_special_ids, *known, *stops}
        self.blanks: dict[int, bool] = {}

    def taught(self, one: Document) -> bool:
        messages = self.messages(one)
        answered = not messages or messages[-1].role == ASSISTANT
        # A label that is shifted already stands one place before its token.
        tail = self.tail(one.ids, len(one.ids)) - 1
        if answered and self.stops_in(one, tail, len(one.ids)):
            return True
        if self.asks(one, messages):
            return True
        if any(message.role == ASSISTANT for message in messages):
            # Where a turn has no end of its own, the next header may be what generation stops at.
            return any(
                self.stops_in(one, message.stop - 1, message.end + 1)
                for message in messages
                if message.role == ASSISTANT
            )
        return _partly(one) and any(
            self.stops_in(one, max(start, self.tail(one.ids, stop) - 1), stop)
            for start, stop in runs(one.labels)
        )

    def asks(self, one: Document, messages: Sequence[Message]) -> bool:
        """Return whether the targets are the user's messages alone, each with its end."""
        own = [message for message in messages if message.role == USER]
        inside = {t for message in own for t in range(message.header, message.end + 1)}
        said = [m for m in own if any(one.labels[t] != IGNORED for t in range(m.start, m.stop))]
        return (
            bool(said)
            and inside.issuperset(one.counted)
            and all(self.stops_in(one, message.stop - 1, message.end + 1) for message in said)
        )

    def messages(self, one: Document) -> list[Message]:
        return messages_in(one.ids, self.template, self.tokenizer)

    def stops_in(self, one: Document, start: int, stop: int) -> bool:
        return any(label in self.stops for label in one.labels[max(start, 0) : stop])

    def tail(self, ids: Sequence[int], stop: int) -> int:
        """Return where the special tokens and blanks before ``stop`` begin."""
        while stop > 0 and (ids[stop - 1] in self.closing or self.blank(ids[stop - 1])):
            stop -= 1
        return stop

    def blank(self, token: int) -> bool:
        if token not in self.blanks:
            self.blanks[token] = not self.tokenizer.decode([token]).strip()
        return self.blanks[token]

    def names(self, ids: Sequence[int]) -> list[str]:
        return [str(name) for name in self.tokenizer.convert_ids_to_tokens(list(ids))]

    def ending(self, one: Document) -> str:
        return str(self.tokenizer.decode(one.ids[-4:]))

    def explain(self, missing: Sequence[Document], pipeline: Pipeline) -> tuple[str, str]:
        """Return the cause, as far as the rows show it, and what to change."""
        tokenizer, one = self.tokenizer, missing[-1]
        tail = self.tail(one.ids, len(one.ids))
        ends = [k for k in range(tail, len(one.ids)) if one.ids[k] in self.stops]
        others = [
            one.ids[k]
            for k in range(tail, len(one.ids))
            if one.labels[k] != IGNORED and not self.blank(one.ids[k])
        ]
        if ends and tokenizer.pad_token_id == one.ids[ends[0]]:
            return (
                "PAD is EOS, and the collator gives padding the label -100: the real EOS, too",
                "give PAD a token of its own, or set labels[attention_mask == 0] = -100",
            )
        if ends:
            return (
                "the token that ends the answer is there, and its label is -100: the mask ends "
                "before it",
                "let the mask include it: write it inside {% generation %}, or one token further",
            )
        if self.template.split:
            return (
                f"the template's {', '.join(self.template.split)} is no special token of this "
                "tokenizer and is split into pieces: it belongs to another model's vocabulary",
                "add the template's special tokens to the tokenizer and resize the embeddings, "
                "or use a template made of tokens that it has",
            )
        if others:
            last = self.names(others)[-1]
            return (
                f"answers end with {last!r}, which is trained, and generation stops at another "
                "token",
                f"set tokenizer.eos_token or model.generation_config.eos_token_id to {last!r}",
            )
        return (
            "nothing stands behind the answer: the text was tokenized without EOS, or the chat "
            "template writes no end of turn",
            f"end each row with {tokenizer.eos_token!r}, in the text or in the template",
        )
