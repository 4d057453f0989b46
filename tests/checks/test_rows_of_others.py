"""Columns and tokens that are none of what their names, or a part of them, say."""

from __future__ import annotations

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainsanity import Pipeline, Status
from trainsanity.checks.dataset.answers_are_read import LEAST, answers_are_read
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.data.left_answers import LeftAnswers
from trainsanity.types import Finding


def judged(code, rows, tokenizer=None):
    pipeline = Pipeline(
        torch.nn.Linear(2, 2), train_dataset=datasets.Dataset.from_list(rows), tokenizer=tokenizer
    )
    return run(pipeline, [registry().get(code)]).results[0].status


@pytest.mark.parametrize(
    ("positive", "negative", "status"),
    [
        ("a text", "a text", Status.FAIL),
        ([1, 2], [1, 2], Status.FAIL),
        ("a text", "another", Status.PASS),
        (0.5, 0.5, Status.PASS),
        ("", "", Status.PASS),
    ],
)
def test_texts_and_tokens_are_compared_and_scores_are_not(positive, negative, status):
    rows = [{"positive": positive, "negative": negative}] * 8
    assert judged("TS268", rows) is status


@pytest.mark.parametrize(("whole", "status"), [(True, Status.PASS), (False, Status.FAIL)])
def test_a_shorter_run_of_blanks_is_a_part_of_the_longer(whole, status):
    """Of eight blanks the tokenizer makes one token, though another of four is within it."""
    base = Tokenizer(models.WordLevel({" ": 0, "[UNK]": 1}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, unk_token="[UNK]")
    tokenizer.add_tokens([8 * " ", 4 * " "])
    ids = [tokenizer.convert_tokens_to_ids(8 * " ")] if whole else [0] * 4
    assert judged("TS120", [{"input_ids": ids}] * 8, tokenizer) is status


@pytest.mark.parametrize(
    ("found", "red"),
    [
        (LeftAnswers("answer", "text", LEAST, 0, {"one", "another"}), True),
        (LeftAnswers("answer", "text", LEAST - 1, 0, {"one", "another"}), False),
        (LeftAnswers("answer", "text", LEAST, 1, {"one", "another"}), False),
        (LeftAnswers("answer", "text", LEAST, 0, {"one"}), False),
    ],
)
def test_answers_that_no_row_holds_are_not_read(found, red):
    assert any(isinstance(one, Finding) for one in answers_are_read(found)) is red
