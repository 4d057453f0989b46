"""TS268 dataset.negatives_differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import is_indexable, plain_values
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 1024
"""Rows that are read, from all over the data."""

MANY = 0.1
"""Share of rows, as in dataset.eval_is_unseen: fewer are noise of whatever mined them."""

POSITIVE = re.compile(r"\bpos(itive)?s?\b", re.IGNORECASE)
NEGATIVE = re.compile(r"\bneg(ative)?s?\b", re.IGNORECASE)


@check(
    "TS268",
    "dataset.negatives_differ",
    needs=("train_dataset",),
    rules_out="negatives that are positives",
)
def negatives_differ(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """The negative of a row is not its positive.

    What it checks: rows with a column for what belongs together and one for what does not
    (``positive`` and ``negative``, in any spelling): that they hold different texts or tokens.

    Why it matters: negatives are mined among the nearest texts, and the nearest of all is the
    positive. Such a row draws together and pushes apart the same two texts: its loss stays at the
    margin, and what was meant to be learnt is taken back.

    How it is measured: exact, on 1024 rows from all over the data. A failure from a tenth of them
    on, a warning for fewer.

    How to fix: leave the positive out when negatives are mined::

        # bad
        negative = random.choice(nearest(anchor, k=5))
        # good
        negative = random.choice([one for one in nearest(anchor, k=6) if one != positive])

    Known false alarms: none known.

    References: huggingface/sentence-transformers#2848.
    """
    data = pipeline.train_dataset
    if not is_indexable(data) or not len(data):
        raise Skip("rows cannot be asked for by number")
    count = min(len(data), ROWS)
    with preserved(pipeline):
        first = data[0]
        names = [*first] if isinstance(first, Mapping) else []
        positive = [name for name in names if POSITIVE.search(_words(name))]
        negative = [name for name in names if NEGATIVE.search(_words(name))]
        if not positive or not negative:
            raise Skip("no two columns are called positive and negative")
        rows = [data[k * len(data) // count] for k in range(count)]
    same = [k * len(data) // count for k, row in enumerate(rows) if _equal(row, positive, negative)]
    if same:
        yield Finding(
            f"{len(same)} of {count} rows have one value as {positive[0]!r} and as "
            f"{negative[0]!r}, row {same[0]} first",
            observed=len(same),
            expected=0,
            where=f"row {same[0]} of train_dataset",
            cause="negatives are taken from the nearest texts, and the nearest is the positive",
            fix="leave the positive out when negatives are mined, and drop these rows",
            severity=Severity.FAILURE if len(same) >= MANY * count else Severity.WARNING,
        )
    yield Measured(f"{len(same)} of {count} rows have a negative that is their positive", len(same))


def _words(name: Any) -> str:
    return re.sub(r"[_\\d]+", " ", str(name))


def _equal(row: Mapping[str, Any], positive: list[str], negative: list[str]) -> bool:
    """Return whether a text, or tokens, are negative and positive; equal scores are no twins."""
    held = [plain_values(row[name]) for name in positive]
    others = [plain_values(row[name]) for name in negative]
    return any(one in held for one in others if isinstance(one, str | list) and one)
