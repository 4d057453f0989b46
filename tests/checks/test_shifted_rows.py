"""Answers beside the prompt of another row."""

from __future__ import annotations

import itertools
import random

import datasets
import pytest
import torch

from trainsanity import Pipeline, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run

ROWS = 120


def words(draw, count):
    return [f"w{draw.randrange(2_000)}" for _ in range(count)]


def asked_and_answered(kept=4):
    """Prompts of twelve words, and answers that hold some of them."""
    draw = random.Random(0)
    prompts = [words(draw, 12) for _ in range(ROWS)]
    return prompts, [[*words(draw, 3), *draw.sample(one, kept)] for one in prompts]


def judged(rows):
    pipeline = Pipeline(torch.nn.Linear(2, 2), train_dataset=datasets.Dataset.from_list(rows))
    return run(pipeline, [registry().get("TS270")]).results[0]


def columns(prompts, answers, names=("prompt", "completion")):
    texts = ((" ".join(one), " ".join(other)) for one, other in zip(prompts, answers, strict=False))
    return [dict(zip(names, both, strict=True)) for both in texts]


@pytest.mark.parametrize("by", [-3, 1, 2])
@pytest.mark.parametrize("names", [("prompt", "completion"), ("question", "answer")])
def test_a_column_that_slipped_is_red_and_its_distance_told(by, names):
    prompts, answers = asked_and_answered()
    answers = answers[by:] + answers[:by]
    result = judged(columns(prompts, answers, names))
    assert result.status is Status.FAIL
    rows = "1 row" if abs(by) == 1 else f"{abs(by)} rows"
    assert f"{rows} {'behind' if by > 0 else 'before'}" in result.findings[0].headline


def test_a_line_lost_on_the_way_is_red_from_there_on():
    prompts, answers = asked_and_answered()
    del answers[20]
    assert judged(columns(prompts, answers)).status is Status.FAIL


def talk(turns):
    """Each answer of a talk with all that was said before it, which holds the answers before."""
    said, rows = [], []
    draw = random.Random(1)
    for _ in range(turns):
        said += words(draw, 6)
        answer = [*words(draw, 5), *said[-2:]]
        rows.append((list(said), answer))
        said += answer
    return rows


def replies():
    """Each utterance answers the one before, and is the prompt of the one after."""
    draw = random.Random(2)
    said = [words(draw, 6)]
    for _ in range(ROWS):
        said.append([*words(draw, 8), said[-1][0]])
    return [*itertools.pairwise(said)]


def windows():
    """A long text, fifty words and the next ten, then ten further on."""
    text = words(random.Random(3), 1_300)
    return [(text[k : k + 50], text[k + 50 : k + 60]) for k in range(0, 1_200, 10)]


def unrelated():
    draw = random.Random(4)
    return [(words(draw, 12), words(draw, 4)) for _ in range(ROWS)]


@pytest.mark.parametrize(
    "rows",
    [[*zip(*asked_and_answered(), strict=True)], talk(ROWS), replies(), windows(), unrelated()],
    ids=["whole rows", "a talk", "replies", "windows", "answers without words of their prompts"],
)
def test_rows_that_follow_each_other_are_no_fault(rows):
    prompts, answers = zip(*rows, strict=True)
    assert judged(columns(prompts, answers)).status is Status.PASS


def test_negatives_that_are_answers_of_the_next_row_are_meant():
    prompts, answers = asked_and_answered()
    rows = columns(prompts, answers, ("prompt", "chosen"))
    for row, other in zip(rows, [*answers[1:], answers[0]], strict=True):
        row["rejected"] = " ".join(other)
    assert judged(rows).status is Status.PASS


class Pictures(torch.utils.data.Dataset):
    """Rows that take long to read, and say nothing of prompts."""

    read = 0

    def __len__(self):
        return ROWS

    def __getitem__(self, number):
        self.read += 1
        return {"pixel_values": torch.zeros(3, 2, 2), "labels": 1}


def test_rows_of_other_columns_are_not_read():
    rows = Pictures()
    result = run(Pipeline(torch.nn.Linear(2, 2), train_dataset=rows), [registry().get("TS270")])
    assert result.results[0].status is Status.SKIP
    assert rows.read <= 3  # the objective and the form ask for the first
