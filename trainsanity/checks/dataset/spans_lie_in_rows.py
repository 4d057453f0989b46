"""TS256 dataset.spans_lie_in_rows."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.outside_spans import OutsideSpans
from trainsanity.types import Finding, Measured, Severity

MANY = 0.1
"""Share of rows from which it is not a matter of single texts, as in dataset.spans_are_answers."""


@check(
    "TS256",
    "dataset.spans_lie_in_rows",
    needs=("train_dataset",),
    rules_out="answers that were cut off",
)
def spans_lie_in_rows(outside_spans: OutsideSpans) -> Iterator[Measured | Finding]:
    """Start and end positions of answers lie inside their rows.

    What it checks: `start_positions` and `end_positions` of 64 rows against the number of tokens
    of the row.

    Why it matters: a context that was cut keeps the positions of the whole one. Models for
    questions ignore what lies behind the row without a word, so that these questions train
    nothing, and the loss says nothing about them.

    How it is measured: exact. A failure from one row in ten on, a warning below; also a warning
    where all such rows have one and the same position: tutorials mark "not in this text" so.

    How to fix: cut contexts into windows, and mark rows that do not hold their answer with the
    position of the first token::

        tokenizer(question, context, truncation="only_second", stride=128,
                  return_overflowing_tokens=True, return_offsets_mapping=True)

    Known false alarms: none known.

    References: huggingface/transformers#6204.
    """
    found = outside_spans
    if found.outside and found.example is not None:
        start, end, length = found.example
        many = len(found.outside) >= MANY * found.rows and not found.same
        yield Finding(
            f"in {len(found.outside)} of {found.rows} rows the answer lies beyond the end of the "
            f"row: start {start} and end {end} in a row of {length} tokens",
            observed=len(found.outside),
            expected=0,
            where=f"row {found.outside[0]} of train_dataset",
            cause="one position marks rows that do not hold their answer: they are left out of "
            "the loss"
            if found.same
            else "contexts are truncated, and the positions are those of the whole context",
            fix="windows with stride and return_overflowing_tokens; position 0 where a window does "
            "not hold the answer",
            severity=Severity.FAILURE if many else Severity.WARNING,
        )
    yield Measured(
        f"of {found.rows} rows with start and end {len(found.outside)} have one behind their last "
        "token",
        len(found.outside),
        0,
    )
