"""Rows as people read them: messages with their roles, and which of their tokens are targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.batches.chat_template import ChatTemplate, messages_in
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Run:
    """Tokens of one part that are alike.

    Attributes:
        text: as the tokenizer writes them; special tokens are kept.
        tokens: how many.
        counted: the loss has them as targets.
        special: they are special tokens.
    """

    text: str
    tokens: int
    counted: bool
    special: bool


@dataclass(frozen=True)
class Part:
    """A message, or what stands before or behind all of them.

    Attributes:
        role: whose it is; ``start`` is what stands before the first header, and ``prompt``,
            ``completion`` or ``text`` what has none.
        runs: its tokens.
    """

    role: str
    runs: list[Run]


@dataclass(frozen=True)
class Sequence_:  # noqa: N801 - Sequence is the abstract class
    """A sequence that the model is given.

    Attributes:
        title: ``chosen`` or ``rejected``, or which document of the row; empty if it is alone.
        parts: in their order.
    """

    title: str
    parts: list[Part]

    @property
    def tokens(self) -> int:
        """Return how many tokens it has."""
        return sum(run.tokens for part in self.parts for run in part.runs)

    @property
    def counted(self) -> int:
        """Return how many of them are targets."""
        return sum(run.tokens for part in self.parts for run in part.runs if run.counted)


@dataclass(frozen=True)
class Conversation:
    """A row: its documents, or the two sides of a pair.

    Attributes:
        number: among the rows that were drawn, or the row's own number in the dataset.
        sequences: one, or several.
        cut: it is as long as rows may be, or as the longest is.
    """

    number: int
    sequences: list[Sequence_]
    cut: bool = False


@dataclass(frozen=True)
class Conversations:
    """Rows as people read them.

    Attributes:
        rows: those that were drawn.
        apart: what tells documents of a pack from each other; empty where nothing does.
        shares: by role, tokens and targets of all of them.
        in_training_order: rows have the numbers in which training reads them, and not the
            dataset's, which ``show --row`` takes.
    """

    rows: list[Conversation]
    apart: str = ""
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    in_training_order: bool = False


@measurement(Cost.STATIC)
def conversations(
    pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate
) -> Conversations:
    """Divide documents into messages, and their tokens into runs.

    Raises:
        Skip: there is no tokenizer that could write them.
    """
    return conversations_of(pipeline, documents, chat_template)


def conversations_of(
    pipeline: Pipeline, documents: Documents, template: ChatTemplate
) -> Conversations:
    """As :func:`conversations`, of documents that were drawn otherwise.

    Raises:
        Skip: there is no tokenizer that could write them.
    """
    if pipeline.tokenizer is None:
        raise Skip("this pipeline has no tokenizer")
    writer = Writer(pipeline.tokenizer, template)
    rows = []
    for _, group in groupby(_packed(documents), key=lambda pair: pair[0]):
        several = [one for _, one in group]
        sequences = [
            writer.sequence(
                one.ids,
                [label != IGNORED for label in one.labels],
                f"document {k} of {len(several)}" if len(several) > 1 else "",
            )
            for k, one in enumerate(several, 1)
        ]
        rows.append(Conversation(several[0].row, sequences, any(one.cut for one in several)))
    return Conversations(rows, documents.apart, _shares(rows), in_training_order=True)


def _packed(documents: Documents) -> Iterator[tuple[Any, Document]]:
    """Yield documents with what those of one pack have in common.

    A collator that flattens a batch is given one row a document; the first batch knows its spans.
    """
    if len(documents.spans) == 1 < len(documents.spans[0]):
        size = len(documents.spans[0])
        for k, one in enumerate(documents.found):
            yield (0 if k < size else one.row + size), one
        return
    for one in documents.found:
        yield one.row, one


def _shares(rows: Iterable[Conversation]) -> dict[str, tuple[int, int]]:
    shares: dict[str, tuple[int, int]] = {}
    for row in rows:
        for sequence in row.sequences:
            for part in sequence.parts:
                tokens, counted = shares.get(part.role, (0, 0))
                shares[part.role] = (
                    tokens + sum(run.tokens for run in part.runs),
                    counted + sum(run.tokens for run in part.runs if run.counted),
                )
    return shares


class Writer:
    """Writes tokens as text, a run at a time."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        known = getattr(tokenizer, "added_tokens_decoder", {})
        self.special = {*tokenizer.all_special_ids, *(int(i) for i in known)}

    def sequence(
        self,
        ids: Sequence[int],
        counted: Sequence[bool],
        title: str = "",
        answer: int | None = None,
    ) -> Sequence_:
        """Return a sequence with its parts.

        Args:
            ids: its tokens.
            counted: beside each, whether it is a target.
            title: as in :class:`Sequence_`.
            answer: where the completion begins, if that is known.
        """
        parts = [
            Part(role, list(self._runs(ids, counted, start, stop)))
            for role, start, stop in self._divided(ids, counted, answer)
            if stop > start
        ]
        return Sequence_(title, parts)

    def _divided(
        self, ids: Sequence[int], counted: Sequence[bool], answer: int | None
    ) -> list[tuple[str, int, int]]:
        messages = messages_in(ids, self.template, self.tokenizer) if self.template.headers else []
        if messages:
            before = [("start", 0, messages[0].header)]
            return before + [(one.role, one.header, one.end) for one in messages]
        if answer is None:
            at = [t for t, one in enumerate(counted) if one]
            answer = at[0] if at and at[0] > 1 else 0
        if answer:
            return [("prompt", 0, answer), ("completion", answer, len(ids))]
        return [("text", 0, len(ids))]

    def _runs(
        self, ids: Sequence[int], counted: Sequence[bool], start: int, stop: int
    ) -> Iterator[Run]:
        def alike(t: int) -> tuple[bool, bool]:
            return bool(counted[t]), ids[t] in self.special

        for (target, special), places in groupby(range(start, stop), key=alike):
            own = list(places)
            yield Run(self._text(ids, own[0], own[-1] + 1), len(own), target, special)

    def _text(self, ids: Sequence[int], start: int, stop: int) -> str:
        """Return a run as it stands in the text: decoded alone it may lose a blank."""
        before, whole = self._decoded(ids[:start]), self._decoded(ids[:stop])
        if whole.startswith(before):
            return whole[len(before) :]
        return self._decoded(ids[start:stop])

    def _decoded(self, ids: Sequence[int]) -> str:
        if not len(ids):
            return ""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
