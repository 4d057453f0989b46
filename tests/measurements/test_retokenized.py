"""What a row of ids holds of another."""

from __future__ import annotations

import pytest

from trainsanity.measurements.retokenized import _holds


@pytest.mark.parametrize(
    ("row", "part", "holds"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], True),
        ([1, 2, 3, 4], [1, 2], True),
        ([1, 2, 3, 4], [2, 3], True),
        ([1, 2, 3, 4], [3, 4], True),
        ([1, 2, 3, 4], [4], True),
        ([1, 2, 3, 4], [2, 4], False),
        ([1, 2, 3, 4], [4, 5], False),
        ([1, 2], [1, 2, 3], False),
    ],
)
def test_a_part_is_held_in_one_piece(row, part, holds):
    assert _holds(row, part) is holds
