"""TS215 dataset.chosen_is_rated_higher."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.isolation.random_states import first_row
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

RATED = re.compile(r"scor|rating|reward|grade|quality|preference|win", re.IGNORECASE)
"""Columns whose larger number is the better; ranks, losses and perplexities are not."""

ROWS = 10_000
"""Rows that are read."""


@check(
    "TS215",
    "dataset.chosen_is_rated_higher",
    needs=("train_dataset",),
    rules_out="swapped pairs",
)
def chosen_is_rated_higher(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Where the rows hold ratings, the chosen answer is the one that is rated higher.

    What it checks: columns that rate both sides (score_chosen and score_rejected, chosen-rating and
    rejected-rating ...), row by row.

    Why it matters: with the sides swapped everything runs and the accuracy rises, while the model
    is trained to give the answers that were rated low. The ratings beside them say so.

    How it is measured: exact comparison in up to 10,000 rows. More rows rated the wrong way than
    the right way are a failure, fewer a warning; ties count for neither.

    How to fix: bad: best, worst = sorted(answers, key=rating), which is ascending. Good:

        best, *_, worst = sorted(answers, key=rating, reverse=True)

    Known false alarms: a column of that name whose smaller number is the better.

    References: huggingface/trl#2578.
    """
    data = pipeline.train_dataset
    names = _rated(data)
    if names is None:
        raise Skip("no two columns rate the chosen and the rejected answer")
    good, bad = names
    wrong, right, first = 0, 0, -1
    rows = data.select_columns([good, bad]) if hasattr(data, "select_columns") else data
    for k in range(min(len(data), ROWS)):
        row = rows[k]
        if not _is_number(row[good]) or not _is_number(row[bad]):
            continue
        right += row[good] > row[bad]
        if row[good] < row[bad]:
            wrong += 1
            first = k if first < 0 else first
    if wrong:
        swapped = wrong > right
        yield Finding(
            f"in {wrong} of {wrong + right} rows the chosen answer is rated lower than the "
            f"rejected one ({good} below {bad})",
            observed=wrong,
            expected=0,
            where=f"row {first}",
            cause="chosen and rejected are swapped: the ratings were sorted the wrong way round"
            if swapped
            else None,
            fix="take the answer with the higher score as chosen",
            severity=Severity.FAILURE if swapped else Severity.WARNING,
        )
    yield Measured(f"{good} is below {bad} in {wrong} rows and above it in {right}", wrong, 0)


def _rated(data: Any) -> tuple[str, str] | None:
    """Return the names of two columns of numbers that rate either side."""
    names = list(getattr(data, "column_names", None) or ())
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or not len(data):
        return None
    pairs = [(name, name.replace("chosen", "rejected")) for name in names if RATED.search(name)]
    pairs = [(name, other) for name, other in pairs if other != name and other in names]
    row = first_row(data) if pairs else None
    for name, other in pairs:
        if row and _is_number(row[name]) and _is_number(row[other]):
            return name, other
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)
