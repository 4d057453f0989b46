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


def told_apart(
    rows: Sequence[Mapping[str, Any]], padded: list[list[int]], replaced: list[list[int]]
) -> list[Placement | None]:
    """:func:`place` where labels tell which tokens were replaced by others.

    Args:
        rows: the source rows.
        padded: the batch's ids, ``[B, T]``.
        replaced: 1 where a token is another than the row's, ``[B, T]``; all else is the row's own.
    """
    if len(padded) != len(rows):
        return [None] * len(rows)
    found: list[Placement | None] = []
    for row, ids, marks in zip(rows, padded, replaced, strict=True):
        own, width = list(row["input_ids"]), len(ids)
        starts = [start for start in {0, width - len(own)} if start >= 0]
        fits = [
            start
            for start in starts
            if all(
                token == seen or mark == 1
                for token, seen, mark in zip(
                    own, ids[start:], marks[start : start + len(own)], strict=False
                )
            )
        ]
        found.append(Placement(min(fits), len(own), width) if fits and own else None)
    return found


def packed(rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> bool:
    """Return whether the rows stand one behind the other in fewer rows than they were."""
    padded = batch["input_ids"].tolist()
    if len(padded) >= len(rows):
        return False
    tokens = list(chain.from_iterable(row["input_ids"] for row in rows))
    return list(chain.from_iterable(padded))[: len(tokens)] == tokens


def unpacked(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
) -> list[tuple[list[Any], Mapping[str, Any]]]:
    """Return rows that stand one behind the other each with its own part of the batch.

    Rows that do not come back as one pair.  What goes by token is cut; the rest is left out.
    """
    if not packed(rows, batch):
        return [([*rows], batch)]
    shape = batch["input_ids"].shape
    flat = {
        name: value.reshape(-1)
        for name, value in batch.items()
        if getattr(value, "shape", None) == shape
    }
    parts: list[tuple[list[Any], Mapping[str, Any]]] = []
    at = 0
    for row in rows:
        end = at + len(row["input_ids"])
        parts.append(([row], {name: value[None, at:end] for name, value in flat.items()}))
        at = end
    return parts
