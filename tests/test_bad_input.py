"""Batches that no role fits, ragged rows, pictures of unequal sizes, rows that hold nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertForMultipleChoice,
    DataCollatorForMultipleChoice,
    Trainer,
    set_seed,
)

from fixtures.accumulation import arguments
from fixtures.field import _encoders, _pictures
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.errors import UsageError
from trainsanity.types import Status

LAWS = ("loss.logged_is_a_mean", "loss.adds_up", "gradient.step_is_the_weighted_sum",
        "gradient.not_zero")  # fmt: skip


class Unnamed(nn.Module):
    """Takes inputs by names that nobody knows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, alpha, beta, gamma):
        assert all(isinstance(one, str) for one in gamma)
        made = self.layer(alpha.flatten(1))
        return {"loss": (made - beta).square().mean(), "made": made}


def collated(rows):
    return {
        "alpha": torch.tensor([row["a"] for row in rows]).reshape(len(rows), 2, 3),
        "beta": torch.tensor([row["b"] for row in rows]),
        "gamma": [row["name"] for row in rows],
    }


def test_where_no_role_fits_the_laws_are_asked_and_the_rest_says_why():
    set_seed(0)
    draw = np.random.default_rng(0)
    rows = [{"a": draw.normal(size=6).tolist(), "b": [float(k % 3), 1.0], "name": f"row {k}"}
            for k in range(64)]  # fmt: skip
    trainer = Trainer(
        Unnamed(),
        arguments(4, remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows),
        data_collator=collated,
    )
    report = run(Pipeline.from_trainer(trainer), registry().select())
    by_name = {result.check.name: result for result in report.results}
    assert report.exit_code() == 0
    assert {result.status for result in report.results} <= {Status.PASS, Status.SKIP}
    assert all(result.reason for result in report.results if result.status is Status.SKIP)
    for law in LAWS:
        assert by_name[law].status is Status.PASS, by_name[law].reason


def test_pictures_of_unequal_sizes_are_told_once():
    rows = [{"pixel_values": np.full((3, 16, 16 + k % 2), k).tolist(), "labels": k % 3}
            for k in range(32)]  # fmt: skip
    trainer = Trainer(
        _pictures.vit(num_labels=3),
        arguments(2),
        train_dataset=Dataset.from_list(rows).with_format("torch"),
    )
    report = run(Pipeline.from_trainer(trainer), registry().select())
    counts = Counter(result.status for result in report.results)
    told = [result for result in report.results if result.status is Status.ERROR]
    assert counts[Status.ERROR] == 1, told
    assert "equal size" in told[0].reason
    assert report.exit_code() == 3


@pytest.mark.matrix
def test_ragged_choices_are_told_by_the_collators_check():
    tok = _encoders.words_tokenizer()
    rows = []
    for k, (text, _) in enumerate(_encoders.texts(64)):
        count = 3 + k % 2  # transformers' collator takes the first row's number for all
        rows.append({**tok([text] * count, [f"c{i}" for i in range(count)]), "labels": k % 3})
    trainer = Trainer(
        BertForMultipleChoice(_encoders.bert_config(tok)),
        arguments(2),
        train_dataset=Dataset.from_list(rows),
        processing_class=tok,
        data_collator=DataCollatorForMultipleChoice(tok),
    )
    report = run(Pipeline.from_trainer(trainer), registry().select())
    failed = [result for result in report.results if result.status is Status.FAIL]
    errors = [result for result in report.results if result.status is Status.ERROR]
    assert [result.check.name for result in failed] == ["collator.rows_recovered"]
    assert len(errors) <= 1
    assert report.exit_code() == 1


class Hollow(torch.utils.data.Dataset):
    """Rows that a processor made nothing of."""

    def __init__(self, row):
        self.row = row

    def __len__(self):
        return 32

    def __getitem__(self, k):
        return self.row


@pytest.mark.parametrize(("row", "words"), [({}, "they hold nothing"), (None, "raised TypeError")])
def test_rows_that_hold_nothing_are_one_sentence(row, words):
    trainer = Trainer(_pictures.vit(num_labels=3), arguments(2), train_dataset=Hollow(row))
    with pytest.raises(UsageError, match=words) as refused:
        run(Pipeline.from_trainer(trainer), registry().select())
    assert "\n" not in str(refused.value)
