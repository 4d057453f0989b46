"""Where a source row lies inside a collated batch, whichever side was padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any


@dataclass(frozen=True)
class Placement:
    """A source row in its padded row: tokens ``[start, start + length)`` of ``width``."""

    start: int
    length: int
    width: int

    def mask(self) -> list[int]:
        """The attention mask that is exact: 1 on the row's tokens, 0 on padding."""
        before, after = self.start, self.width - self.start - self.length
        return [0] * before + [1] * self.length + [0] * after

    def inside(self, padded: Sequence[Any]) -> list[Any]:
        """The places of ``padded`` that belong to the row."""
        return list(padded[self.start : self.start + self.length])

    def outside(self, padded: Sequence[Any]) -> list[Any]:
        """The places of ``padded`` that are padding."""
        return [*padded[: self.start], *padded[self.start + self.length :]]


def place(row: Sequence[int], padded: Sequence[int]) -> Placement | None:
    """Find ``row`` at the left or the right end of ``padded``; None if it is at neither."""
    row, padded = list(row), list(padded)
    n, width = len(row), len(padded)
    if n and padded[:n] == row:
        return Placement(0, n, width)
    if n and n <= width and padded[width - n :] == row:
        return Placement(width - n, n, width)
    return None


def placements(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
) -> list[Placement | None]:
    """:func:`place` for each source row and the batch's ``input_ids`` (``[B, T]``).

    None for all of them if the batch has another number of rows.
    """
    padded = batch["input_ids"].tolist()
    if len(padded) != len(rows):
        return [None] * len(rows)
    return [place(row["input_ids"], ids) for row, ids in zip(rows, padded, strict=True)]


def packed(rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> bool:
    """Whether the rows stand one behind the other in fewer rows than they were."""
    padded = batch["input_ids"].tolist()
    if len(padded) >= len(rows):
        return False
    tokens = list(chain.from_iterable(row["input_ids"] for row in rows))
    return list(chain.from_iterable(padded))[: len(tokens)] == tokens
