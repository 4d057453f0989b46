"""TS271 dataset.answers_are_read."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.left_answers import LeftAnswers
from trainsanity.types import Finding, Measured

LEAST = 8
"""Rows from which on an answer that is in none is no exception."""


@check("TS271", "dataset.answers_are_read", rules_out="answers that are not read")
def answers_are_read(left_answers: LeftAnswers) -> Iterator[Measured | Finding]:
    """Rows of a dataset with a column of answers hold the answers.

    What it checks: language models' rows that are the text of one column, where another is called
    `answer`, `response`, `output`, `completion` or `solution`: whether they hold its text.

    Why it matters: ``SFTTrainer`` trains the column ``text`` unless it is told otherwise, and says
    nothing of the others. A model that is trained on the questions alone learns to ask, and the
    loss falls.

    How it is measured: exact, as text without blanks and special tokens, on 64 rows; rows that may
    be cut are left out. A failure where none of eight or more rows holds its answer, and the
    answers are not one.

    How to fix: name both columns, or put them together::

        # bad
        dataset = Dataset.from_list([{"text": question, "answer": answer} for ...])
        # good
        dataset = Dataset.from_list([{"prompt": question, "completion": answer} for ...])

    Known false alarms: whole texts that are trained to be written, whose column of that name is
    about something else.

    References: huggingface/trl#2390.
    """
    found = left_answers
    if found.rows >= LEAST and not found.held and len(found.texts) > 1:
        yield Finding(
            f"{found.rows} of {found.rows} rows are the text of {found.source!r}, and none holds "
            f"its answer, which is in {found.column!r}",
            observed=0,
            expected=found.rows,
            where=in_training_order(found.first),
            cause=f"the column {found.source!r} is trained alone, and {found.column!r} is not read",
            fix="name the columns prompt and completion, or make one text of both",
        )
    yield Measured(
        f"of {found.rows} rows that are the text of one column {found.held} hold the text of "
        f"{found.column!r}",
        found.held,
        found.rows,
    )
