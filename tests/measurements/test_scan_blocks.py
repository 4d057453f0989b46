"""The parts of the scan, each on a few numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from trainsanity.measurements.data.scan_blocks import (
    Block,
    Special,
    _earlier,
    _extents,
    _highest,
    signatures,
)
from trainsanity.measurements.data.scan_repeats import _candidates, _leak, _pair
from trainsanity.measurements.data.scan_rows import Lists, lists

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("kind", INTEGERS)
def test_the_highest_and_whether_any_is_below_zero(kind):
    limits = np.iinfo(kind)
    # The two highest bits decide: of a signed type one is the sign.
    quarter, half, most, least = limits.max // 4, limits.max // 2, limits.max, limits.min
    ends = {0, 1, 2, quarter, quarter + 1, half, half + 1, most - 1, most, -1, -2}
    ends |= {least, least + 1, least // 2}
    for one in sorted(end for end in ends if limits.min <= end <= limits.max):
        for other in (one, 0):
            values = np.array([one, other], kind)
            assert _highest(values) == (max(one, other), one < 0), (one, other)
    assert _highest(np.array([], kind)) == (-1, False)


def test_the_text_of_a_row_goes_from_its_first_kept_value_to_its_last():
    kept = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 1], bool)
    begins, spans, count = _extents(kept, np.array([0, 2, 6, 6, 9, 10]))
    assert begins.tolist() == [0, 4, 6, 6, 9]
    assert spans.tolist() == [2, 1, 0, 0, 1]
    assert count.tolist() == [2, 1, 0, 0, 1]
    begins, spans, count = _extents(np.array([1, 0, 1, 0], bool), np.array([0, 4]))
    assert (begins.tolist(), spans.tolist(), count.tolist()) == ([0], [3], [2])
    begins, spans, count = _extents(np.zeros(3, bool), np.array([0, 1, 3]))
    assert (begins.tolist(), spans.tolist(), count.tolist()) == ([0, 1], [0, 0], [0, 0])


@pytest.mark.parametrize(
    ("before", "places", "first"),
    [(None, [], None), (3, [], 3), (None, [7, 5], 5), (3, [7, 5], 3), (6, [7, 5], 5), (0, [4], 0)],
)
def test_the_earlier_place(before, places, first):
    assert _earlier(before, np.array(places, np.int64)) == first


def test_signatures_tell_rows_apart_by_each_probe_and_by_their_length():
    probes = np.array([[5, 5, 6, 5, 5, 5, 5], [5, 5, 5, 6, 5, 5, 5], [5, 5, 5, 5, 6, 5, 5],
                       [5, 5, 5, 5, 5, 6, 5]])  # fmt: skip
    signed = signatures(probes, np.array([4, 4, 4, 4, 4, 4, 3]))
    assert signed[0] == signed[1]
    assert len(set(signed.tolist())) == 6
    assert signatures(probes, np.array([0, 1, 0, 1, 0, 1, 0]))[::2].tolist() == [0] * 4


def test_candidates_agree_in_the_whole_of_their_signature():
    """In half of it 1, 2 and 4 agree with one another, in the other half 3 with 1."""
    high = 1 << 32
    one, two = [7 * high + 1, 5 * high + 1, 7 * high + 2], [6 * high + 1, 7 * high + 1, 0, 0]
    splits = [SimpleNamespace(signatures=np.array(some, np.uint64)) for some in (one, two)]
    assert [places.tolist() for places in _candidates(splits)] == [[0], [1]]
    assert [places.tolist() for places in _candidates(splits[:1])] == [[]]


@pytest.mark.parametrize(
    ("train", "evaluated", "rows", "first"),
    [
        # Groups that are below, between and above all that are trained on.
        ([2, 4, 2], [1, 3, 5], 0, None),
        ([2, 4, 2], [4, 5, 2], 2, (10, 101)),
        ([2, 4, 2], [5, 1, 2], 1, (12, 100)),
        ([2, 4, 2], [], 0, None),
        ([], [1, 2], 0, None),
    ],
)
def test_a_leak_is_a_row_of_a_group_that_is_trained_on(train, evaluated, rows, first):
    places = np.arange(100, 100 + len(train)), np.arange(10, 10 + len(evaluated))
    leak = _leak(places[0], np.array(train, int), places[1], np.array(evaluated, int))
    assert (leak.rows, leak.first) == (rows, first)


@pytest.mark.parametrize(
    ("which", "pair"),
    [
        ([False] * 4, None),
        ([True, False, False, False], (8, 2)),
        ([True, True, True, True], (5, 3)),
        ([False, False, True, True], (5, 3)),
        ([False, True, False, False], (8, 5)),
    ],
)
def test_the_pair_whose_later_place_comes_first(which, pair):
    assert _pair(np.array([2, 8, 5, 3, 9][: len(which) + 1]), np.array(which)) == pair


def test_a_row_begins_twice_with_an_id_and_not_with_it_and_a_higher_one():
    rows = [[5, 5, 1], [5, 6, 1], [5, 4, 1], [5], [6, 5], [5, 5]]
    offsets = np.cumsum([0, *map(len, rows)])
    values = np.concatenate(rows)
    special = Special()
    block = Block(Lists(values, offsets))
    special.add(5, block, np.arange(6))
    assert (special.total, special.rows, special.leading) == (8, 6, 5)
    assert (special.doubled, special.first_doubled) == (2, 0)


@pytest.mark.parametrize(
    ("rows", "kind", "values", "nulls"),
    [
        ([[None], [None, None]], pa.null(), [0, 0, 0], [True, True]),
        ([[1, None], [2]], pa.int32(), [1, 0, 2], [True, False]),
        ([[1], None, [2]], pa.int16(), [1, 2], [False, True, False]),
    ],
)
def test_nulls_are_noughts_whose_rows_are_named(rows, kind, values, nulls):
    found = lists(pa.array(rows, pa.list_(kind)), "input_ids")
    assert found.values.tolist() == values
    assert found.values.dtype.kind == "i"
    assert found.nulls.tolist() == nulls
