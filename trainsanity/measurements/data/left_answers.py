"""Columns of answers beside rows that are made of another column alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.documents import Documents
from trainsanity.measurements.data.shown_inputs import as_tokenized, plain
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ANSWERS = ("answer", "response", "output", "completion", "solution")
"""Columns of answers, in the words of datasets that people use."""


@dataclass
class LeftAnswers:
    """Rows that are the text of one column, beside a column of answers.

    Attributes:
        column: the answers.
        source: the column whose text the rows are.
        rows: how many rows are.
        held: how many of these hold their answer.
        texts: the different answers.
        first: the number of the first row.
    """

    column: str
    source: str = ""
    rows: int = 0
    held: int = 0
    texts: set[str] = field(default_factory=set)
    first: int = 0


@measurement(Cost.STATIC)
def left_answers(pipeline: Pipeline, documents: Documents) -> LeftAnswers:
    """Look for the answers in rows that are the text of another column.

    Raises:
        Skip: there is no tokenizer, or no column of answers, or no row is one column's text.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        raise Skip("the pipeline has no tokenizer")
    if not any(name in one.raw for one in documents.found for name in ANSWERS):
        raise Skip("the rows have no column of answers")
    with preserved(pipeline), quiet(pipeline):
        for column in ANSWERS:
            found = LeftAnswers(column)
            for one in documents.found:
                answer = one.raw.get(column)
                if one.cut or not isinstance(answer, str) or not answer.strip():
                    continue
                row = plain(tokenizer, one.ids)
                source = next(
                    (name for name, text in one.raw.items()
                     if name != column and isinstance(text, str) and text.strip()
                     and as_tokenized(tokenizer, text) == row),
                    "",
                )  # fmt: skip
                if not source:
                    continue
                if not found.rows:
                    found.first, found.source = one.row, source
                found.rows += 1
                found.texts.add(answer)
                found.held += as_tokenized(tokenizer, answer) in row
            if found.rows:
                return found
    raise Skip("no row is the text of one column, with an answer in another")
