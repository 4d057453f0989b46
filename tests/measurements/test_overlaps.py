"""Evaluation rows that begin inside training rows."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from datasets import Dataset

from fixtures.faults import healthy
from trainsanity import Pipeline
from trainsanity.checks.dataset.eval_is_unseen import LEAST, MANY
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.data.overlaps import SIZE, _hits
from trainsanity.measurements.runs.reloaded import prefix_of
from trainsanity.measurements.runs.scored import ends_of_prompts
from trainsanity.types import Severity

WIDTH = 2 * SIZE


def rows_of(parts):
    return Dataset.from_list(
        [{"input_ids": ids, "attention_mask": [1] * len(ids), "label": 0} for ids in parts]
    )


def drawn(count, seed, width=WIDTH):
    draw = random.Random(seed)
    return [[draw.randrange(10, 900) for _ in range(width)] for _ in range(count)]


@pytest.fixture(scope="module")
def trainer():
    return healthy()


def judged(trainer, train, held):
    trainer.train_dataset, trainer.eval_dataset = rows_of(train), rows_of(held)
    (result,) = run(Pipeline.from_trainer(trainer), registry().select(["TS209"])).results
    return result


def overlapping(count, of):
    """Return training rows, and evaluation rows of which so many begin as one of them ends."""
    train, held = drawn(100, 1), drawn(of, 2)
    return train, [
        train[k][-SIZE:] + row[SIZE:] if k < count else row for k, row in enumerate(held)
    ]


@pytest.mark.parametrize(
    ("count", "severity"),
    [(LEAST - 1, None), (LEAST, Severity.WARNING), (int(MANY * 60), Severity.FAILURE)],
)
def test_so_many_rows_overlap(trainer, count, severity):
    result = judged(trainer, *overlapping(count, 60))
    assert [one.severity for one in result.findings] == ([] if severity is None else [severity])


def test_rows_that_count_on_from_where_others_began_are_no_windows(trainer):
    begins = random.Random(0).sample(range(800), 60)  # at regular distances they would be windows
    rows = [[10 + (first + 3 * k) % 800 for k in range(2 * WIDTH)] for first in begins]
    assert not judged(trainer, rows[20:], rows[:20]).findings


def test_rows_that_share_a_passage_are_no_windows(trainer):
    """A sentence may end one text and begin another; windows have one length."""
    train, held = drawn(60, 1), drawn(20, 2)
    train = [[*row, *row[: k % 9]] for k, row in enumerate(train)]
    held = [train[k][-SIZE - k % 7 :] + row for k, row in enumerate(held)]
    assert not judged(trainer, train, held).findings


def test_a_common_beginning_is_no_overlap(trainer):
    prompt = drawn(1, 3)[0]
    train, held = ([prompt + row for row in drawn(40, seed)] for seed in (1, 2))
    assert not judged(trainer, train, held).findings


def test_a_footer_that_many_rows_have_is_no_overlap(trainer):
    footer = drawn(1, 3, SIZE)[0]
    train = [row + footer for row in drawn(60, 1)]
    assert not judged(trainer, train, [footer + row for row in drawn(40, 2)]).findings


def test_a_line_of_dashes_is_no_overlap(trainer):
    train = [row + [5, 6] * (SIZE // 2) for row in drawn(60, 1)]
    assert not judged(trainer, train, [[5, 6] * (SIZE // 2) + r for r in drawn(3, 2)]).findings


def test_hits_end_with_their_row():
    rows = [numpy.arange(SIZE + 2), numpy.arange(100, 100 + SIZE)]
    wanted = numpy.array([key for _, _, key in _hits(rows, _every(rows))], numpy.uint64)
    assert [(k, at) for k, at, _ in _hits(rows, numpy.unique(wanted))] == [
        (0, 0), (0, 1), (0, 2), (1, 0)]  # fmt: skip


def _every(rows):
    from trainsanity.measurements.data.overlaps import _hashes

    return numpy.unique(_hashes(numpy.concatenate(rows)))


def test_what_stands_before_each_name():
    own = {"a.weight", "b.c.weight"}
    assert prefix_of(["_orig_mod.a.weight", "_orig_mod.b.c.weight"], own) == "_orig_mod."
    assert not prefix_of(["x.a.weight", "y.b.c.weight"], own)
    assert not prefix_of(["a.weight", "x.b.c.weight"], own)


def test_prompts_that_end_with_padding():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1]])
    ids = torch.tensor([[4, 5, 6], [4, 5, 0], [0, 4, 5]])
    assert ends_of_prompts((), {"input_ids": ids, "attention_mask": mask}, None) == (3, 1)
    assert ends_of_prompts((ids,), {}, 0) == (3, 1)
    assert ends_of_prompts((ids,), {}, None) == (0, 0)


def test_rows_that_all_begin_alike_do_not_overlap(trainer):
    prompt = drawn(1, 3)[0]
    train, held = ([prompt + row for row in drawn(count, 4 + count)] for count in (60, 20))
    result = judged(trainer, train, held)
    assert str(result.status) == "pass"
