"""Tokens that break the user's declaration of which are targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.answers import prompt_size
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ASSISTANT, ChatTemplate, messages_in
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ASSISTANT_ALONE, COMPLETION_ALONE, EVERYTHING = "assistant", "completion", "all"


@dataclass(frozen=True)
class Part:
    """Tokens that the declaration says the same of.

    Attributes:
        name: whose they are.
        wanted: whether they are to be targets.
        tokens: how many.
        broken: how many are otherwise.
        rows: rows with such a token.
        row: the first of those; None if there is none.
        example: its first tokens that are otherwise, as text.
    """

    name: str
    wanted: bool
    tokens: int
    broken: int
    rows: int
    row: int | None
    example: str


@dataclass(frozen=True)
class Declared:
    """How the rows that were drawn keep the declaration.

    Attributes:
        supervise: the declared value.
        parts: of the rows' tokens.
        rows: rows that could be judged.
    """

    supervise: str
    parts: list[Part]
    rows: int


Said = tuple[str, bool, list[int]]
"""A speaker, whether its tokens are to be targets, and their places."""


@measurement(Cost.STATIC)
def declared(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Declared:
    """Hold the targets of a few rows against ``supervise``.

    Raises:
        Skip: nothing is declared, or no row shows which tokens are meant.
    """
    supervise = pipeline.supervise
    if supervise is None:
        raise Skip("supervise is not declared")
    if documents.shifted:
        raise Skip("the labels are those of the next token: collator.labels_aligned judges that")
    if pipeline.tokenizer is None and supervise != EVERYTHING:
        raise Skip("this pipeline has no tokenizer that tells answers from questions")
    rules = {ASSISTANT_ALONE: _of_messages, COMPLETION_ALONE: _of_completion, EVERYTHING: _of_all}
    with preserved(pipeline), quiet(pipeline):
        said = [
            (one, list(rules[supervise](pipeline, one, chat_template)))
            for one in documents.found
            if len(one.ids) > 1
        ]
    said = [(one, parts) for one, parts in said if parts]
    if not said:
        raise Skip(f"no row shows which tokens supervise={supervise!r} means: no header of the "
                   "chat template is in them, and no prompt is stored beside them")  # fmt: skip
    names = dict.fromkeys((name, wanted) for _, parts in said for name, wanted, _ in parts)
    return Declared(
        supervise, [_part(pipeline, name, wanted, said) for name, wanted in names], len(said)
    )


def _part(
    pipeline: Pipeline, name: str, wanted: bool, said: list[tuple[Document, list[Said]]]
) -> Part:
    tokens = broken = rows = 0
    first: int | None = None
    example = ""
    for one, parts in said:
        places = [t for who, want, own in parts if (who, want) == (name, wanted) for t in own if t]
        wrong = [t for t in places if (one.labels[t] != IGNORED) != wanted]
        tokens, broken, rows = tokens + len(places), broken + len(wrong), rows + bool(wrong)
        if wrong and first is None:
            first = one.row
            ids = [one.ids[t] for t in wrong[:12]]
            example = str(pipeline.tokenizer.decode(ids)) if pipeline.tokenizer else str(ids)
    return Part(name, wanted, tokens, broken, rows, first, example)


def _of_all(pipeline: Pipeline, one: Document, template: ChatTemplate) -> Iterator[Said]:
    yield "the row's", True, list(range(1, len(one.ids)))


def _of_messages(pipeline: Pipeline, one: Document, template: ChatTemplate) -> Iterator[Said]:
    messages = messages_in(one.ids, template, pipeline.tokenizer)
    if not any(message.role == ASSISTANT for message in messages):
        return
    decode = pipeline.tokenizer.decode
    for k, message in enumerate(messages):
        if one.cut and k in (0, len(messages) - 1):
            continue  # it may have lost an end
        # Special tokens inside, as those around an empty thought, are the template's.
        places = [
            t
            for t in range(message.start, message.stop)
            if one.ids[t] not in template.special and decode([one.ids[t]]).strip()
        ]
        yield f"the {message.role}'s", message.role == ASSISTANT, places


def _of_completion(pipeline: Pipeline, one: Document, template: ChatTemplate) -> Iterator[Said]:
    if "prompt" in one.raw:
        size = prompt_size(pipeline.tokenizer, one)
        if not size:
            return
        yield "the prompt's", False, list(range(size - 1))
        # What is written between prompt and answer belongs to neither; blanks may be merged.
        rest = list(range(size + 1, len(one.ids)))
    else:
        messages = messages_in(one.ids, template, pipeline.tokenizer)
        answers = [message for message in messages if message.role == ASSISTANT]
        if not answers:
            # Nothing shows where the answer begins: the prompt has the first token, it the last.
            yield "the rows' first", False, [1]
            yield "the rows' last", True, [] if one.cut else [len(one.ids) - 1]
            return
        yield "the prompt's", False, list(range(answers[-1].start))
        rest = list(range(answers[-1].start, answers[-1].stop))
    yield "the completion's", True, rest[: len(rest) - _tail(pipeline, one, rest)]


def _tail(pipeline: Pipeline, one: Document, rest: list[int]) -> int:
    """Return how many special tokens and blanks end the row, which stop_is_taught judges."""
    tokenizer, count = pipeline.tokenizer, 0
    known = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    for t in reversed(rest):
        if one.ids[t] not in known and tokenizer.decode([one.ids[t]]).strip():
            break
        count += 1
    return count
