"""TS245 dataset.spans_are_answers."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.marked_spans import MarkedSpans
from trainsanity.types import Finding, Measured, Severity

MANY = 0.1
"""Share of rows from which it is not a matter of single texts, as in
tokenizer.messages_are_in_rows."""

MOST = 0.5
"""Share of rows from which a span that is a little off is the rule."""


@check(
    "TS245",
    "dataset.spans_are_answers",
    needs=("tokenizer", "train_dataset"),
    rules_out="answers' spans",
)
def spans_are_answers(marked_spans: MarkedSpans) -> Iterator[Measured | Finding]:
    """What start and end positions mark is the answer.

    What it checks: the tokens from `start_positions` to `end_positions` of 64 rows, decoded,
    against the text of the answer that the row still carries (`answer`, or `answers` as SQuAD has
    it).

    Why it matters: a place counted in words or characters, or the answer of another question, is a
    place in the text like any other. The loss falls, because where answers tend to lie can be
    learnt, and the model answers with some words nearby.

    How it is measured: exact, on letters and digits alone, without case and accents. Rows that mark
    a special token (no answer) or hold an unknown token are left out, and columns whose texts stand
    in less than half of the rows. A span that holds the answer, or is a part of it, is a little
    off: a failure where half of the rows are; one that shares nothing whole with it is a failure
    from one row in ten on, and a warning below.

    How to fix: take positions from the tokenizer, and the row's number from
    `overflow_to_sample_mapping` within the batch that was tokenized.

    Bad::

        start = len(context[: answer["answer_start"]].split())

    Good::

        start = encoded.char_to_token(0, answer["answer_start"], sequence_index=1)

    Known false alarms: a column of answers that are rewritten and happen to stand elsewhere in most
    texts.

    References: huggingface/transformers#246, huggingface/datasets#4755.
    """
    found = marked_spans
    columns = " and ".join(found.columns)
    if found.strange or len(found.inexact) >= MOST * found.rows:
        rows = found.strange or found.inexact
        many = len(found.strange) >= MANY * found.rows or len(found.inexact) >= MOST * found.rows
        what = "is not" if found.strange else "is only near"
        yield Finding(
            f"in {len(rows)} of {found.rows} rows what start and end mark {what} the answer of the "
            f"column {columns}: {found.marked!r} in place of {found.answer!r}",
            observed=len(rows),
            expected=0,
            where=f"row {rows[0]} of train_dataset",
            cause="places that were counted in words or characters, or belong to another row "
            "(overflow_to_sample_mapping counts from 0 in each batch of map)",
            fix="char_to_token of the encoding gives the position of a character; look at a few "
            "rows: tokenizer.decode(ids[start : end + 1])",
            severity=Severity.FAILURE if many else Severity.WARNING,
        )
    yield Measured(
        f"of {found.rows} rows with an answer in {columns} {len(found.strange)} mark something "
        f"else, and {len(found.inexact)} a part of it or more",
        len(found.strange) + len(found.inexact),
        0,
    )
