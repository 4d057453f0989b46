"""Targets by role over the whole dataset: counted exactly, whatever the blocks."""

from __future__ import annotations

from collections import Counter

import numpy
import pytest

from fixtures.templates import trainer
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.documents import Document
from trainsanity.measurements.data.supervised import NOTHING, OTHER, Supervised, _Tally
from trainsanity.pipeline import Pipeline

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


def plainly(rows, headers, bound):
    """Count token by token what a tally counts in blocks."""
    made = Supervised(roles=dict.fromkeys((OTHER, *headers), (0, 0)))
    longest_first = sorted(headers.items(), key=lambda item: -len(item[1]))
    for number, (ids, counted) in enumerate(rows):
        role, own, size = OTHER, 0, len(ids)
        for t in range(size):
            begun = (r for r, header in longest_first if tuple(ids[t : t + len(header)]) == header)
            role = next(begun, role)
            if t == 0:
                continue
            tokens, targets = made.roles[role]
            made.roles[role] = (tokens + 1, targets + counted[t])
            own += counted[t]
            if not counted[t] or t == 1 or counted[t - 1]:
                continue
            stop = next((e for e in range(t, size) if not counted[e]), size)
            made.spans += 1
            made.before[ids[t - 1]] += 1
            made.after[ids[stop] if stop < size else NOTHING] += 1
            if stop < size or size < bound:
                made.last[ids[stop - 1]] += 1
        made.rows += 1
        if size > 1:
            made.full += own == size - 1
            made.histogram[min(int(own / (size - 1) * 20), 19)] += 1
            if not own and size < bound:
                made.silent += 1
                made.first_silent = number if made.first_silent is None else made.first_silent
    return made


@pytest.mark.parametrize("seed", range(40))
def test_what_is_counted_is_what_a_loop_over_tokens_counts(seed):
    draw = numpy.random.default_rng(seed)
    headers = {**HEADERS, "system": (1,), "tool": (5, 6, 7), "call": (2,)}
    rows = []
    for size in draw.integers(0, 12, 20):
        ids = [3, *draw.choice([1, 2, 3, 5, 6, 7, 10, 11], size).tolist()][:size]
        rows.append((ids, (draw.random(size) < draw.choice([0.1, 0.5, 1])).tolist()))
    bound = int(draw.integers(2, 14))
    made = _Tally(headers, bound)
    for first, part in ((0, rows[:9]), (9, rows[9:])):
        flat = numpy.array([t for ids, _ in part for t in ids])
        counted = numpy.array([keep for _, kept in part for keep in kept])
        offsets = numpy.cumsum([0, *(len(ids) for ids, _ in part)])
        made._add(flat, counted, offsets, lambda k, first=first: first + k)
    wanted = plainly(rows, headers, bound)
    for counter in ("before", "last", "after"):
        assert +getattr(made.found, counter) == +getattr(wanted, counter)
        setattr(made.found, counter, Counter())
        setattr(wanted, counter, Counter())
    assert made.found == wanted


@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_an_eos_that_is_a_target_is_text_where_it_is_pad_as_well(pad):
    built = trainer("mistral")
    built.processing_class.pad_token = pad
    found = Session.of(Pipeline.from_trainer(built)).measurements.get("supervised")
    eos = built.processing_class.eos_token_id
    rows = built.train_dataset
    assert found.counted == sum(label != -100 for row in rows for label in row["labels"])
    assert set(found.last) == {eos}
