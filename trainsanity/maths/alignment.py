"""Where a source row lies inside a collated batch, whichever side was padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
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


def turned(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], each: int = 1
) -> list[int] | None:
    """Return which row lies at each place of a batch that has all rows whole, in another order.

    None where each lies at its own place, or one lies nowhere.  Of several rows that a place may
    hold the longest is taken: a shorter one may be its beginning.

    Args:
        rows: the source rows.
        batch: with ``input_ids``.
        each: how many rows after one another are one item, as the choices of a question: None
            where they do not stay together.
    """
    if getattr(batch.get("input_ids"), "ndim", 0) != 2:  # nothing that rows could be found in
        return None
    padded = batch["input_ids"].tolist()
    if len(padded) != len(rows) or any("input_ids" not in row for row in rows):
        return None
    given = [row["input_ids"] for row in rows]
    own = [list(one.tolist() if hasattr(one, "tolist") else one) for one in given]
    if all(place(row, ids) for row, ids in zip(own, padded, strict=True)):
        return None
    left = sorted(range(len(rows)), key=lambda k: -len(own[k]))
    order = []
    for ids in padded:
        k = next((k for k in left if place(own[k], ids)), None)
        if k is None:
            return None
        left.remove(k)
        order.append(k)
    together = all(one // each == order[k - k % each] // each for k, one in enumerate(order))
    return order if together else None


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
    """Return whether all tokens of all rows are there, in another number of rows."""
    return laid_out(rows, batch) is not None


def laid_out(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], *, reordered: bool = False
) -> list[list[int]] | None:
    """Return where the tokens of each row are among the flattened ``input_ids``.

    Rows that are joined may be cut where a block ends; else each is whole, behind another one, with
    padding or separators between them, and in any order.  By the attention mask a row may come out
    as several, too.

    Args:
        rows: with ``input_ids``.
        batch: what they were made into.
        reordered: look for as many rows as there were, too, if they are not in their places.

    Returns:
        None where the batch has as many rows as it was made of, or lacks a token.
    """
    padded = batch["input_ids"].tolist()
    if len(padded) == len(rows):
        if not reordered or all(placements(rows, batch)):
            return None
        return _whole([list(row["input_ids"]) for row in rows], padded)
    sequences = [list(row["input_ids"]) for row in rows]
    tokens = [*chain.from_iterable(sequences)]
    flat = [*chain.from_iterable(padded)]
    mask: Any = batch.get("attention_mask")
    fewer = len(padded) < len(rows)
    if fewer and flat[: len(tokens)] == tokens:
        return _in_turn(sequences, range(len(tokens)))
    if getattr(mask, "shape", None) == batch["input_ids"].shape:
        shown = [k for k, seen in enumerate(mask.reshape(-1).tolist()) if seen]
        if [flat[k] for k in shown] == tokens:
            return _in_turn(sequences, shown)
    return _whole(sequences, padded) if fewer else None


def _in_turn(sequences: Sequence[Sequence[int]], places: Sequence[int]) -> list[list[int]]:
    found, at = [], 0
    for one in sequences:
        found.append([*places[at : at + len(one)]])
        at += len(one)
    return found


def _whole(
    sequences: Sequence[Sequence[int]], padded: Sequence[Sequence[int]]
) -> list[list[int]] | None:
    """Find each sequence whole, none over another; the longest first, which fit at fewer places."""
    found: list[list[int]] = [[] for _ in sequences]
    free = [[True] * len(row) for row in padded]
    starts = [*accumulate((len(row) for row in padded), initial=0)]
    for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
        own, size = list(sequences[i]), len(sequences[i])
        place = next(
            (
                (k, at)
                for k, row in enumerate(padded)
                for at in range(len(row) - size + 1)
                if free[k][at] and row[at : at + size] == own and all(free[k][at : at + size])
            ),
            None,
        )
        if place is None or not size:
            return None
        k, at = place
        free[k][at : at + size] = [False] * size
        found[i] = [*range(starts[k] + at, starts[k] + at + size)]
    return found


def unpacked(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], *, reordered: bool = False
) -> list[tuple[list[Any], Mapping[str, Any]]]:
    """Return rows that do not stand alone each with its own part of the batch.

    Rows that do not come back as one pair.  What goes by token is cut; the rest is left out.

    Args:
        rows: as in :func:`laid_out`, with ``batch`` and ``reordered``.
        batch: see there.
        reordered: see there.
    """
    places = laid_out(rows, batch, reordered=reordered)
    if places is None:
        return [([*rows], batch)]
    shape = batch["input_ids"].shape
    flat = {
        name: value.reshape(-1)
        for name, value in batch.items()
        if getattr(value, "shape", None) == shape
    }
    return [
        ([row], {name: value[where][None] for name, value in flat.items()})
        for row, where in zip(rows, places, strict=True)
    ]
