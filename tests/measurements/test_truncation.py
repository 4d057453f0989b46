"""Rows that are pieces of longer texts, and rows of one length that lose nothing."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset

from fixtures.faults import healthy
from fixtures.pipelines import tiny_qwen3
from trainsanity.measurements.data.truncation import Truncation, _ends_inside, _relation
from trainsanity.pipeline import Pipeline
from trainsanity.testing import run_one
from trainsanity.types import Status

TEXT = [*range(10, 30)]
NAME = "dataset.rows_not_truncated"
CAUSES = "0123456789"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_qwen3._tokenizer()


@pytest.fixture(scope="module")
def trainer():
    return healthy()


@pytest.fixture
def judged(trainer):
    """The check's result on other training data."""
    before = trainer.train_dataset

    def judged(rows, **columns):
        data = {"input_ids": rows, **columns}
        trainer.train_dataset = Dataset.from_dict(data)
        return run_one(NAME, Pipeline.from_trainer(trainer))

    yield judged
    trainer.train_dataset = before


@pytest.mark.parametrize(
    ("ids", "relation"),
    [
        (TEXT, "whole"),
        ([1, 2, *TEXT, 3], "whole"),
        (TEXT[:12], "cut"),
        ([1, 2, *TEXT[:12]], "cut"),
        (TEXT[-12:], "cut"),
        ([*TEXT[-12:], 1, 2], "cut"),
        (TEXT[:3], "cut"),
        # Too few tokens of a text at the end of another row.
        ([*range(100, 120), *TEXT[:7]], ""),
        (TEXT[4:12], ""),
        ([], ""),
    ],
)
def test_a_row_and_a_text(tokenizer, ids, relation):
    assert _relation(tokenizer, ids, TEXT, "") == relation


def test_a_text_that_repeats_itself_is_whole(tokenizer):
    again = [5, 6] * 10
    assert _relation(tokenizer, again, again, "") == "whole"
    assert _relation(tokenizer, again[:12], again, "") == "cut"


def test_ends_inside():
    assert _ends_inside([1, *TEXT[:8]], TEXT)
    assert not _ends_inside([1, *TEXT[:7]], TEXT)
    assert not _ends_inside(TEXT, TEXT)


@pytest.mark.parametrize(
    ("found", "share"),
    [
        (Truncation(10, 8, 6, probed=4, cut=3), 0.45),
        (Truncation(10, 8, 6, probed=4, cut=0, evidence="a setting"), 0.0),
        (Truncation(10, 8, 6), 0.0),
        (Truncation(10, 8, 6, evidence="a setting"), 0.6),
    ],
)
def test_share(found, share):
    assert found.share == pytest.approx(share)


def different(count, length):
    """Rows of ordinary tokens, none of which goes on in the next."""
    return [[1000 + 97 * k + t for t in range(length)] for k in range(count)]


RAGGED = [row for length in range(4, 12) for row in different(1, length)]


def test_one_length_alone_shows_nothing(judged):
    result = judged(different(20, 16), label=[*range(20)])
    assert result.status is Status.PASS
    assert result.message == (
        "20 of 20 rows have the greatest length, 16; no text or setting shows whether these are cut"
    )


@pytest.mark.parametrize(("capped", "status"), [(8, Status.PASS), (9, Status.WARNING)])
def test_more_than_half_of_ragged_rows_with_labels(judged, capped, status):
    rows = [*RAGGED, *different(capped, 12)]
    result = judged(rows, label=[k % 7 for k in range(len(rows))])
    assert result.status is status
    assert result.message == (
        f"{capped} of {8 + capped} rows have the greatest length, 12; "
        "the other rows have 8 different lengths"
    )


def test_few_different_lengths_show_nothing(judged):
    rows = [*RAGGED[1:], *different(20, 12)]
    result = judged(rows, label=[k % 7 for k in range(len(rows))])
    assert result.status is Status.PASS


def test_windows_lose_nothing(judged):
    text = [*range(2000, 2600)]
    rows = [text[at : at + 24] for at in range(0, 480, 16)]
    rows += [text[k : k + 4 + k] for k in range(8)]
    assert judged(rows, label=[0, 1] * (len(rows) // 2)).status is Status.PASS


def test_what_the_tokenizer_is_set_to(judged, trainer):
    backend = trainer.processing_class.backend_tokenizer
    before = copy.deepcopy(backend.truncation)
    try:
        backend.enable_truncation(16)
        result = judged(different(20, 16), label=[*range(20)])
        assert result.status is Status.WARNING
        assert result.findings[0].headline == (
            "100% of 20 rows in train_dataset have 16 tokens and seem to be cut there; "
            "the tokenizer is set to truncate at 16"
        )
        assert "the tokenizer is set to truncate at 16" in result.message
        assert judged(different(20, 15), label=[*range(20)]).status is Status.PASS
        assert backend.truncation["max_length"] == 16
    finally:
        backend.no_truncation() if before is None else backend.enable_truncation(**before)


def test_the_greatest_length_that_the_tokenizer_allows(judged, trainer):
    tokenizer = trainer.processing_class
    before, tokenizer.model_max_length = tokenizer.model_max_length, 16
    try:
        assert judged(different(20, 16), label=[*range(20)]).status is Status.WARNING
    finally:
        tokenizer.model_max_length = before


def test_a_text_that_rows_share_is_not_lost(judged, tokenizer):
    texts, rows = [], []
    for k in range(6):
        text = " ".join(f"{word}{CAUSES[k]} tells of it" for word in ("one", "two", "six", "ten"))
        ids = tokenizer(text)["input_ids"]
        rows += [ids[:10], ids[10:20]]
        texts += [text, text]
    shared = judged(rows, text=texts, label=[0, 1] * 6)
    assert shared.status is Status.PASS
    alone = judged(rows[::2], text=texts[::2], label=[*range(6)])
    assert alone.status is Status.WARNING
    assert "6 of 6 of these, tokenized again, are cut" in alone.message


def test_the_second_of_two_texts_is_cut(judged, tokenizer):
    first = [f"the {k}. question" for k in range(8)]
    second = [f"an answer to {k} that has a good many words, and goes on" for k in range(8)]
    rows = [
        (tokenizer(a)["input_ids"] + tokenizer(b)["input_ids"])[:13]
        for a, b in zip(first, second, strict=True)
    ]
    result = judged(rows, question=first, answer=second, label=[*range(8)])
    assert result.status is Status.WARNING


@pytest.fixture
def wrapping(trainer):
    """The ids of a CLS and a SEP that the tokenizer has meanwhile."""
    tokenizer = trainer.processing_class
    tokenizer.add_special_tokens({"cls_token": "<|im_start|>", "sep_token": "<|object_ref_end|>"})
    yield tokenizer.cls_token_id, tokenizer.sep_token_id
    tokenizer.cls_token = tokenizer.sep_token = None


@pytest.mark.parametrize(
    ("length", "kind", "status"),
    [
        (16, "closed texts", Status.WARNING),
        (50, "closed texts", Status.WARNING),
        # A length that nobody chooses: texts of a fixed form.
        (17, "closed texts", Status.PASS),
        (16, "open texts", Status.PASS),
        # They begin and end anywhere.
        (16, "blocks", Status.PASS),
    ],
)
def test_one_length_between_special_tokens(judged, wrapping, length, kind, status):
    rows = different(20, length)
    if kind == "closed texts":
        rows = [[wrapping[0], *row[1:-1], wrapping[1]] for row in rows]
    columns = {} if kind == "blocks" else {"label": [*range(20)]}
    assert judged(rows, **columns).status is status
