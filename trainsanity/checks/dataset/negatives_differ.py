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

FEW = 8
"""Different values up to which a column is a property, such as a flag, a language or a prefix, and
no text.  Chosen."""

POSITIVE = re.compile(r"\bpos(itive)?s?\b", re.IGNORECASE)
NEGATIVE = re.compile(r"\b(hard )?neg(ative)?s?\b", re.IGNORECASE)

Sides = list[dict[str, str]]
"""Columns of each positive, or of each negative, by what they hold of it."""


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

    How it is measured: exact, on 1024 rows from all over the data. Columns whose names differ in
    that word alone are compared, and all of those have to be equal: titles, masks and sources are
    those of many texts. A column of at most eight values, such as a flag or a language, is not
    compared. A failure from a tenth of the rows on, a warning for fewer.

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
        positives, negatives = _sides(names, POSITIVE), _sides(names, NEGATIVE)
        if not positives or not negatives:
            raise Skip("no two columns are called positive and negative")
        rows = [data[k * len(data) // count] for k in range(count)]
    pairs = [pair for one in positives for other in negatives if (pair := _texts(rows, one, other))]
    found = [(k, both) for k, row in enumerate(rows) if (both := _equal(row, pairs))]
    same = [k * len(data) // count for k, _ in found]
    if same:
        yield Finding(
            f"{len(same)} of {count} rows have one value as {found[0][1][0][0]!r} and as "
            f"{found[0][1][0][1]!r}, row {same[0]} first",
            observed=len(same),
            expected=0,
            where=f"row {same[0]} of train_dataset",
            cause="negatives are taken from the nearest texts, and the nearest is the positive",
            fix="leave the positive out when negatives are mined, and drop these rows",
            severity=Severity.FAILURE if len(same) >= MANY * count else Severity.WARNING,
        )
    yield Measured(f"{len(same)} of {count} rows have a negative that is their positive", len(same))


def _sides(names: list[str], kind: re.Pattern[str]) -> Sides:
    """Return the columns of each that is called so, numbered ones apart."""
    sides: dict[str, dict[str, str]] = {}
    for name in names:
        # neg_1_input_ids, negativeText and NEGATIVE are called so, too.
        words = re.sub(r"([a-z])([A-Z])|[_\W]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", r"\1 \2", str(name))
        if kind.search(words):
            rest = kind.sub(" ", words).lower().split()
            number = " ".join(word for word in rest if word.isdigit())
            sides.setdefault(number, {})[" ".join(w for w in rest if not w.isdigit())] = name
    return [*sides.values()]


def _texts(
    rows: list[Mapping[str, Any]], positive: dict[str, str], negative: dict[str, str]
) -> list[tuple[str, str]]:
    """Return the columns that hold the same of both, if one of them holds texts or tokens."""
    both = [(positive[what], negative[what]) for what in positive if what in negative]
    if not both and len(positive) == len(negative) == 1:
        (one,), (other,) = positive.values(), negative.values()
        both = [(one, other)]  # pos_text and neg_passage
    both = [pair for pair in both if isinstance(rows[0][pair[0]], str | list)]
    told = [len({repr(plain_values(row[name])) for row in rows}) for name, _ in both]
    # Of fewer rows than that each may have a text of its own.
    return both if any(count > min(FEW, len(rows) - 1) for count in told) else []


def _equal(
    row: Mapping[str, Any], pairs: list[list[tuple[str, str]]]
) -> list[tuple[str, str]] | None:
    """Return the columns in which a negative is a positive: in all that both have."""
    for both in pairs:
        values = [(plain_values(row[one]), plain_values(row[other])) for one, other in both]
        if all(one == other for one, other in values) and any(one for one, _ in values):
            return both
    return None
