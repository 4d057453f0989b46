"""Answers of questions beside the spans of their rows that are marked as the answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.known_tokens import flat
from trainsanity.measurements.data.talks import spread_rows
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

STARTS, ENDS = "start_positions", "end_positions"
"""What transformers' models for extractive questions call their labels."""

NAMED = "answer"
"""Columns whose name holds this are texts of answers: all data sets in SQuAD's form have one."""


@dataclass
class MarkedSpans:
    """Spans of a few rows.

    Attributes:
        columns: columns of answers, of which most rows hold the text.
        rows: rows with a marked span and an answer that they hold.
        strange: numbers of those whose span shares nothing whole with any answer: neither holds
            the other.
        inexact: of the rest, numbers of those whose span is not the answer.
        marked, answer: of the first strange row, or of the first inexact one.
    """

    columns: tuple[str, ...] = ()
    rows: int = 0
    strange: list[int] = field(default_factory=list)
    inexact: list[int] = field(default_factory=list)
    marked: str = ""
    answer: str = ""


@dataclass(frozen=True)
class _Row:
    number: int
    marked: str
    text: str
    answers: Mapping[str, list[str]]


@measurement(Cost.STATIC)
def marked_spans(pipeline: Pipeline) -> MarkedSpans:
    """Decode what is marked in a few rows of the training data.

    Raises:
        Skip: there is no tokenizer, or no row has a marked span beside the text of its answer.
    """
    if pipeline.tokenizer is None or not hasattr(pipeline.tokenizer, "decode"):
        raise Skip("the pipeline has no tokenizer")
    with preserved(pipeline), quiet(pipeline):
        rows = list(_rows(pipeline))
    if not rows:
        raise Skip("no row has start_positions and end_positions beside the text of its answer")
    names = dict.fromkeys(name for row in rows for name in row.answers)
    # An answer in words of its own, or its kind (yes, no), stands in few of the texts.
    columns = [name for name in names if 2 * sum(_stands(row, name) for row in rows) > len(rows)]
    if not columns:
        raise Skip(f"most rows do not hold the texts of {', '.join(names)}")
    found = MarkedSpans(tuple(columns))
    shown: dict[bool, _Row] = {}
    for row in rows:
        answers = [_plain(text) for name in columns for text in row.answers.get(name, ())]
        if not any(answers):
            continue
        found.rows += 1
        marked = _plain(row.marked)
        if marked in answers:
            continue
        near = bool(marked) and any(marked in one or (one and one in marked) for one in answers)
        (found.inexact if near else found.strange).append(row.number)
        shown.setdefault(near, row)
    if one := shown.get(False, shown.get(True)):
        found.marked = one.marked
        found.answer = next(text for name in columns for text in one.answers.get(name, ()))
    return found


def _rows(pipeline: Pipeline) -> Iterator[_Row]:
    """Yield rows with a span and an answer, of which the tokenizer knows every token."""
    tokenizer = pipeline.tokenizer
    special, unknown = set(tokenizer.all_special_ids), getattr(tokenizer, "unk_token_id", None)
    for number, row in spread_rows(pipeline.train_dataset):
        start, end, ids = row.get(STARTS), row.get(ENDS), flat(row.get("input_ids"))
        answers = {
            str(name): texts
            for name, value in row.items()
            if NAMED in str(name).lower() and (texts := _texts(value))
        }
        if not answers or not isinstance(start, int) or not isinstance(end, int):
            continue
        # A question without an answer marks the first token.
        if not 0 <= start <= end < len(ids) or ids[start] in special or unknown in ids:
            continue
        marked = str(tokenizer.decode(ids[start : end + 1], skip_special_tokens=True))
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        yield _Row(number, marked, text, answers)


def _texts(value: Any) -> list[str]:
    """Return the texts of an answer: itself, several, or SQuAD's ``{"text": [...]}``."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return []
    return [text for text in value if isinstance(text, str) and _plain(text)]


def _plain(text: str) -> str:
    """Return letters and digits alone, without case and accents: tokenizers change the rest."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return "".join(one for one in apart if one.isalnum())


def _stands(row: _Row, name: str) -> bool:
    text = _plain(row.text)
    return any(_plain(one) in text for one in row.answers.get(name, ()))
