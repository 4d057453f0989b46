"""Targets by role over the whole dataset: counted exactly, whatever the blocks."""

from __future__ import annotations

import numpy
import pytest

from trainsanity.measurements.batches.documents import Document
from trainsanity.measurements.data.supervised import NOTHING, OTHER, Supervised, _Tally

HEADERS = {"user": (1, 10), "assistant": (1, 11)}
ROW = [0, 1, 10, 50, 51, 9, 1, 11, 60, 61, 9]
LABELS = [-100] * 8 + [60, 61, 9]


def tally(*rows, bound=100):
    made = _Tally(HEADERS, bound)
    for number, (ids, labels) in enumerate(rows):
        made.add_document(Document(number, ids, labels, {}, cut=False))
    return made.found


def test_roles_and_what_stands_around_a_run():
    found = tally((ROW, LABELS))
    assert found.roles == {OTHER: (0, 0), "user": (5, 0), "assistant": (5, 3)}
    assert (found.spans, dict(found.before), dict(found.last)) == (1, {11: 1}, {9: 1})
    assert found.after == {NOTHING: 1}
    assert (found.tokens, found.counted) == (10, 3)


def test_a_block_of_rows_is_counted_as_the_rows_are():
    rows = [(ROW, LABELS), (ROW[6:], [-100, -100, 60, 61, 9]), ([7, 7, 7], [7, 7, 7])]
    apart = tally(*rows)
    made = _Tally(HEADERS, 100)
    ids = numpy.array([t for ids, _ in rows for t in ids])
    counted = numpy.array([label != -100 for _, labels in rows for label in labels])
    offsets = numpy.cumsum([0, *(len(ids) for ids, _ in rows)])
    made._add(ids, counted, offsets, lambda k: k)
    assert made.found == apart


def test_a_rows_first_token_is_no_target_and_a_whole_row_is_full():
    found = tally(([7, 8, 9], [7, 8, 9]))
    assert (found.full, found.counted, found.tokens, found.spans) == (1, 2, 2, 0)
    assert found.histogram[-1] == 1


@pytest.mark.parametrize(("bound", "silent"), [(100, 1), (3, 0)])
def test_a_row_without_a_target_may_be_cut(bound, silent):
    found = tally(([1, 2, 3], [-100] * 3), bound=bound)
    assert (found.silent, found.first_silent) == (silent, 0 if silent else None)


def test_an_end_that_may_be_cut_off_is_no_end():
    found = tally((ROW, LABELS), bound=len(ROW))
    assert not found.last
    assert found.before == {11: 1}


def test_empty_rows_and_none_at_all():
    found = tally(([], []), ([5], [5]))
    assert (found.rows, found.tokens, found.silent, found.full) == (2, 0, 0, 0)
    assert Supervised().told() == "no token"
