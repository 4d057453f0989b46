"""Trained answers beside their prompts, and beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import USER, ChatTemplate, messages_in
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 64
"""Rows that are read."""

_SPACE = re.compile(r"\s+")


@dataclass
class OwnAnswers:
    """Answers of a few rows.

    Attributes:
        answers: answers that have a prompt before them.
        prompts: how many of the prompts are different.
        texts: the different answers.
        tokens: tokens of the longest of them, special ones aside.
        copies: numbers of rows whose answer is the prompt, or the user's last words.
        begin: numbers of rows whose answer begins with it, and goes on.
        cut: how many answers are the beginning of it.
        example: the beginning of the first of either.
        prompt: the first of all, as text.
        beside: the model is given numbers beside the ids, such as a picture's.
    """

    answers: int = 0
    prompts: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    tokens: int = 0
    copies: list[int] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    cut: int = 0
    example: str = ""
    prompt: str = ""
    beside: bool = False


@measurement(Cost.STATIC)
def own_answers(pipeline: Pipeline, chat_template: ChatTemplate) -> OwnAnswers:
    """Read prompts and first answers of a few rows, or of both sides of pairs.

    Raises:
        Skip: there is no tokenizer, or no row has targets behind something that is none.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        raise Skip("the pipeline has no tokenizer")
    found = OwnAnswers()
    special = set(tokenizer.all_special_ids)
    with preserved(pipeline), quiet(pipeline):
        for number, before, after in _parts(pipeline):
            answer = _plain(tokenizer, after)
            asked = [_plain(tokenizer, before)]
            said = [m for m in messages_in(before, chat_template, tokenizer) if m.role == USER]
            if said:
                asked.append(_plain(tokenizer, before[said[-1].start : said[-1].stop]))
            if not answer or not all(asked):
                continue
            found.answers += 1
            found.prompt = found.prompt or str(tokenizer.decode(list(before)))
            found.prompts.add(asked[0])
            found.texts.add(answer)
            found.tokens = max(found.tokens, sum(token not in special for token in after))
            if answer in asked:
                found.copies.append(number)
            elif any(answer.startswith(one) for one in asked):
                found.begin.append(number)
            else:
                found.cut += any(one.startswith(answer) for one in asked)
                continue
            found.example = found.example or str(tokenizer.decode(list(after[:16])))
    found.beside = _numbers(pipeline)
    if not found.answers:
        raise Skip("no row has targets behind a prompt that is none")
    return found


def _parts(pipeline: Pipeline) -> Iterator[tuple[int, Sequence[int], Sequence[int]]]:
    """Yield prompts and the first run of targets behind each, with the row's number."""
    take = Session.of(pipeline).measurements.get
    try:
        both = take("pairs").both[:MOST]
    except Skip:
        both = []
    for k, sides in enumerate(both):
        for side in sides:
            size = len(side.counted or ())
            at = next((t for t in range(len(side.ids) - size, 0, -1)
                       if side.ids[t : t + size] == side.counted), 0)  # fmt: skip
            if size and at:
                yield k, side.ids[:at], side.ids[at : at + size]
    if both:
        return
    try:
        documents = take("documents")
    except Skip:
        return
    for one in () if documents.shifted else documents.found[:MOST]:
        counted = one.counted
        # The first token of a row is never a target.
        if len(counted) == len(one.ids) - 1 or not counted:
            continue
        stop = next((k for k, t in enumerate(counted) if t != counted[0] + k), len(counted))
        yield one.row, one.ids[: counted[0]], one.ids[counted[0] : counted[0] + stop]


def _numbers(pipeline: Pipeline) -> bool:
    try:
        inputs = Session.of(pipeline).measurements.get("documents").inputs
    except Skip:
        return False
    return any(getattr(one, "is_floating_point", bool)() for one in inputs.values())


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    return _SPACE.sub("", str(tokenizer.decode(list(ids), skip_special_tokens=True)))
