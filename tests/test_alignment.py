"""Finding a row in its padded row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainsanity.maths.alignment import (
    Placement,
    laid_out,
    packed,
    place,
    placements,
    unpacked,
)

ids = st.lists(st.integers(1, 9), min_size=1, max_size=12)
PAD = 0


@given(ids, st.integers(0, 6), st.booleans())
def test_a_padded_row_is_found_where_it_was_put(row, padding, left):
    padded = [PAD] * padding + row if left else row + [PAD] * padding
    found = place(row, padded)
    assert found == Placement(padding if left else 0, len(row), len(padded))
    assert [t for t, m in zip(padded, found.mask(), strict=True) if m] == row
    assert padded[found.start + found.length - 1] == row[-1]


@given(ids, st.integers(1, 6))
def test_a_row_that_was_cut_or_changed_is_not_found(row, padding):
    assert place(row, row[:-1]) is None
    assert place(row, [row[0] + 1, *row[1:]] + [PAD] * padding) is None


def test_a_row_in_the_middle_is_not_found():
    assert place([1, 2], [PAD, 1, 2, PAD]) is None


def test_what_is_inside_and_what_is_padding():
    where = place([1, 2], [PAD, 1, 2])
    assert where.inside("abc") == ["b", "c"]
    assert where.outside("abc") == ["a"]


def test_rows_one_behind_the_other_are_packed():
    torch = pytest.importorskip("torch")
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3]}]
    assert packed(rows, {"input_ids": torch.tensor([[1, 2, 3, PAD]])})
    assert not packed(rows, {"input_ids": torch.tensor([[1, 2], [3, PAD]])})
    assert not packed(rows, {"input_ids": torch.tensor([[1, 2]])})
    assert placements(rows, {"input_ids": torch.tensor([[1, 2, 3]])}) == [None, None]


def rows_of(*rows):
    return [{"input_ids": list(row)} for row in rows]


def batch_of(*rows, mask=None):
    torch = pytest.importorskip("torch")
    made = {"input_ids": torch.tensor([list(row) for row in rows])}
    return made if mask is None else {**made, "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize(
    ("rows", "batch", "places"),
    [
        # One behind the other, with padding or a separator between them.
        (["ab", "c"], ["abcP"], [[0, 1], [2]]),
        (["ab", "c"], ["abSc"], [[0, 1], [3]]),
        (["ab", "c", "def"], ["abcP", "defP"], [[0, 1], [2], [4, 5, 6]]),
        # Joined, and cut where a block ends.
        (["ab", "cdef", "g"], ["abcd", "efgP"], [[0, 1], [2, 3, 4, 5], [6]]),
        # In any order; equal ones not twice at one place.
        (["a", "bcd", "a"], ["bcda", "aPPP"], [[3], [0, 1, 2], [4]]),
        # One is lost.
        (["ab", "c", "ab"], ["abcP"], None),
        (["ab", "c"], ["abPP"], None),
        # As many rows as there were are padded and not packed.
        (["ab", "c"], ["cP", "ab"], None),
    ],
)
def test_where_packed_rows_lie(rows, batch, places):
    made = batch_of(*(map(ord, row) for row in batch))
    assert laid_out(rows_of(*(map(ord, row) for row in rows)), made) == places


def test_a_long_row_in_two_is_told_by_the_mask():
    rows = rows_of([1, 2, 3], [4])
    made = batch_of([1, 2], [3, PAD], [4, PAD], mask=[[1, 1], [1, 0], [1, 0]])
    assert laid_out(rows, made) == [[0, 1, 2], [4]]
    parts = unpacked(rows, made)
    assert [part["input_ids"].tolist() for _, part in parts] == [[[1, 2, 3]], [[4]]]
    without = {"input_ids": made["input_ids"]}
    assert laid_out(rows, without) is None


def test_a_packing_that_packs_nothing_may_exchange_rows():
    rows, made = rows_of([1, 2], [3]), batch_of([3, PAD], [1, 2])
    assert laid_out(rows, made, reordered=True) == [[2, 3], [0]]
    assert unpacked(rows, made) == [(rows, made)]
    assert laid_out(rows, batch_of([1, 2], [3, PAD]), reordered=True) is None
