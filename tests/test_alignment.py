"""Finding a row in its padded row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainsanity.maths.alignment import Placement, packed, place, placements

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
