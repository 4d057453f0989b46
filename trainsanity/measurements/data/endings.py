"""How trained answers end: with their turn, or with the header of another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ASSISTANT, CONTENTS, USER
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 64
"""Rows that are read."""


@dataclass(frozen=True)
class Endings:
    """How a few trained answers end.

    Attributes:
        header: what the generation prompt writes, as text.
        answers: how many were read.
        open: numbers of the rows that end with it.
    """

    header: str
    answers: int
    open: list[int] = field(default_factory=list)


@measurement(Cost.STATIC)
def endings(pipeline: Pipeline) -> Endings:
    """Hold the last tokens of trained rows, or of both sides of pairs, against the header.

    Raises:
        Skip: there is no chat template with a generation prompt, or no answer is trained.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise Skip("the tokenizer has no chat template")
    with preserved(pipeline), quiet(pipeline):
        header = _header(tokenizer)
        ids = list(tokenizer(header, add_special_tokens=False)["input_ids"]) if header else []
    if not ids:
        raise Skip("the chat template writes no generation prompt behind an answer")
    tail = _Tail(tokenizer)
    answers, found = 0, []
    for row, whole, counted in _answers(pipeline):
        own = tail.stripped(whole)
        answers += 1
        # The header in front of an answer without a word is the prompt's, and no target.
        if len(own) > len(ids) and own[-len(ids) :] == ids:
            if counted is None:
                opened = _times(own, ids) > 1
            else:
                opened = counted >= len(ids) + len(whole) - len(own)
            if opened:
                found.append(row)
    if not answers:
        raise Skip("no row is an answer whose tokens are trained")
    return Endings(header, answers, found)


def _header(tokenizer: Any) -> str:
    talk = [
        {"role": USER, "content": CONTENTS["u"]},
        {"role": ASSISTANT, "content": CONTENTS["a"]},
    ]

    def rendered(more: bool) -> str:
        return str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=more))

    try:
        closed, opened = rendered(False), rendered(True)
    except Exception:  # jinja's, or whatever a template raises by raise_exception
        return ""
    return opened[len(closed) :].strip() if opened.startswith(closed) else ""


def _answers(pipeline: Pipeline) -> Iterator[tuple[int, Sequence[int], int | None]]:
    """Yield rows of ids, each with its number and how many tokens at its end are trained.

    None where the batch does not say.
    """
    take = Session.of(pipeline).measurements.get
    try:
        both = take("pairs").both[:MOST]
    except Skip:
        both = []
    for k, sides in enumerate(both):
        for side in sides:
            yield k, side.ids, None if side.counted is None else len(side.counted)
    if both:
        return
    try:
        kept = take("documents").found
    except Skip:
        return
    for one in kept:
        at_the_end = next((k for k, y in enumerate(reversed(one.labels)) if y == -100), None)
        if one.counted:
            yield one.row, one.ids, len(one.ids) if at_the_end is None else at_the_end


def _times(ids: Sequence[int], part: Sequence[int]) -> int:
    size = len(part)
    return sum(list(ids[k : k + size]) == list(part) for k in range(len(ids) - size + 1))


class _Tail:
    """Strips blanks at the end of ids, and EOS, which Trainers write behind every text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def stripped(self, ids: Sequence[int]) -> list[int]:
        own = list(ids)
        while own and (
            own[-1] == self.tokenizer.eos_token_id
            or not str(self.tokenizer.decode([own[-1]])).strip()
        ):
            own.pop()
        return own
