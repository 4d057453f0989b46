"""TS270 dataset.answers_stay_in_their_rows."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.shifted_rows import Shifted
from trainsanity.types import Finding, Measured

MOST = 0.75
"""Of the answers that point anywhere, as many point the same way; an answer of a few words may
share one of them with any prompt by chance.  Chosen."""

LEAST = 20
"""Answers that point somewhere.  Where each may point to any of 33 rows, three quarters of 20 point
to the same distance by chance once in 1e17 datasets."""


@check(
    "TS270", "dataset.answers_stay_in_their_rows", rules_out="answers of the row before or after"
)
def answers_stay_in_their_rows(shifted_rows: list[Shifted]) -> Iterator[Measured | Finding]:
    """Answers share their words with the prompt of their own row, not with that of the next.

    What it checks: of rows with a prompt and an answer, in columns or in one list of ids, whether
    the rare words of the answers stand in their own prompts, or in those of the rows so many places
    before or behind.

    Why it matters: two files are read line by line and zipped, and one of them has lost a line, or
    one column was filtered, sorted or rolled without the other.  From there on each prompt is
    trained with the answer to another.  Nothing crashes, and the loss falls, as answers resemble
    each other.

    How it is measured: on the last 512 rows in stored order, as what is shifted stays so to the
    end.  A word counts by the logarithm of how few prompts have it, and not at all if a tenth of
    them do.  For each answer the prompt within 16 rows is looked for that shares most with it;
    prompts that hold the answer as it is, or half of the row's own prompt, are later turns of the
    same talk and do not count.  A failure where three quarters of the answers that point anywhere,
    of at least 20, point to the same distance.

    How to fix: filter rows, not columns::

        # bad
        rejected = [line for line in open("rejected.txt") if line.strip()]
        rows = [{"prompt": p, "rejected": r} for p, r in zip(prompts, rejected)]
        # good
        rows = [{"prompt": p, "rejected": r} for p, r in zip(prompts, rejected, strict=True)
                if r.strip()]

    Rows that were shuffled after they were put together have no neighbours any more: this is not
    seen there.  Answers that share no words with their prompts, as translations, say nothing.

    Known false alarms: books and talks in which each prompt retells the answer of the row before in
    other words.  Rejected answers that are the chosen ones of other rows are negatives on purpose
    and left alone.

    References: kxfan2002/SophiaVL-R1#11.
    """
    for one in shifted_rows:
        if one.elsewhere or one.rows < LEAST or one.others < MOST * one.rows:
            continue
        rows = "1 row" if abs(one.by) == 1 else f"{abs(one.by)} rows"
        where = f"{rows} {'behind' if one.by > 0 else 'before'} their own"
        yield Finding(
            f"the answers in {one.column!r} of {one.others} of {one.rows} rows share most of their "
            f"rare words with the prompt {where}",
            observed=one.others,
            expected=0,
            where=f"row {one.example} of train_dataset, and row {one.example + one.by}",
            cause=f"{one.asked!r} and {one.column!r} were put together with a line missing in one "
            "of them, or one was filtered, sorted or rolled by itself",
            fix="filter whole rows, and zip with strict=True",
        )
    yield Measured(
        "answers that share most of their rare words with their own prompt, of those that share "
        "more with one prompt near by than with any other: "
        + ", ".join(f"{one.own} of {one.rows} in {one.column!r}" for one in shifted_rows),
        {one.column: one.own for one in shifted_rows},
    )
