"""Counts of rows by split, shared by the checks of the tokenizer and dataset stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainsanity.types import Finding, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split


def rows_finding(
    split: Split,
    rows: int,
    first: int,
    sentence: str,
    *,
    cause: str,
    fix: str,
    observed: Any = None,
    expected: Any = 0,
    factor: float | None = None,
    severity: Severity = Severity.FAILURE,
) -> Finding:
    """Return the finding that some rows of a split are wrong.

    Args:
        split: whose rows.
        rows: how many of them.
        first: the place of the first.
        sentence: follows "3 of 400 rows in train_dataset".
        cause: as in :class:`Finding`.
        fix: as in :class:`Finding`.
        observed: the measured value, if it is not the number of rows.
        expected: as in :class:`Finding`.
        factor: as in :class:`Finding`.
        severity: as in :class:`Finding`.
    """
    return Finding(
        f"{rows:,} of {split.counted} in {split.name} {sentence}",
        observed=rows if observed is None else observed,
        expected=expected,
        where=split.row(first),
        factor=factor,
        severity=severity,
        cause=cause,
        fix=fix,
    )


def tally(splits: Iterable[Split], counts: Iterable[int]) -> str:
    """Return a count of rows for each split, for a neutral sentence."""
    return ", ".join(
        f"{count:,} of {split.counted} in {split.name}"
        for split, count in zip(splits, counts, strict=True)
    )
