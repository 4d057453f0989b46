"""TS109 tokenizer.rows_match_text."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.retokenized import MESSAGES, Retokenized
from trainsanity.types import Finding, Measured


@check(
    "TS109",
    "tokenizer.rows_match_text",
    needs=("tokenizer", "train_dataset"),
    rules_out="tokenization cache",
)
def rows_match_text(retokenized: Retokenized) -> Iterator[Measured | Finding]:
    """Stored ids match the text that they were made from.

    What it checks: a few rows of the training data that still carry their text (``text``, the
    ``dataset_text_field`` of the arguments, ``messages``, or another column that is the whole of a
    row), tokenized again with the pipeline's tokenizer.

    Why it matters: ``Dataset.map`` finds its cache by the function's hash, which does not see an
    edit in an imported module or a file that the function reads.  The run then trains on the ids
    of the day before yesterday.

    How it is measured: exact.  A row fits if its ids hold those of the text as a whole, or are one
    end of them (a cut row), special tokens aside, or if the decoded row holds the text.  32 rows
    below the greatest length, evenly spaced.

    How to fix: ``dataset.map(..., load_from_cache_file=False)`` once, or ``cleanup_cache_files()``.

    Known false alarms: a function that changes the text before it tokenizes it, beside a column
    with the unchanged one.  Drop the column, or name the check in expected_failures.

    References: huggingface/datasets#3297, huggingface/datasets#8614.
    """
    found = retokenized
    rendered = found.column == MESSAGES
    if found.wrong:
        yield Finding(
            f"the ids of {len(found.wrong)} of {found.rows} rows are not those of their column "
            f"{found.column!r}: row {found.wrong[0]} {_difference(found)}",
            observed=len(found.wrong),
            expected=0,
            where=f"row {found.wrong[0]} of train_dataset",
            cause="a stale cache of Dataset.map, or the rows were tokenized with another tokenizer"
            + (" or rendered by other code than the chat template" if rendered else ""),
            fix="dataset.map(..., load_from_cache_file=False), with this pipeline's tokenizer"
            + (" and apply_chat_template" if rendered else ""),
        )
    yield Measured(
        f"{found.rows - len(found.wrong)} of {found.rows} rows hold the tokens of their column "
        f"{found.column!r}",
        len(found.wrong),
        0,
    )


def _difference(found: Retokenized) -> str:
    """Return in words where the first of the rows and its text come apart."""
    if found.stored == found.expected:
        return f"says {found.said!r} where its text says {found.meant!r}"
    return f"begins with {list(found.stored)}, its text gives {list(found.expected)}"
