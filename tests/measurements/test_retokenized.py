"""What a row of ids holds of another."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pyarrow as pa
import pytest

from fixtures.pipelines import tiny_qwen3
from trainsanity.measurements.data.retokenized import (
    _compare,
    _holds,
    attended,
    text_columns,
    text_of,
    written,
)

EOS = 151_645
BEFORE = [40, 1414]
TEMPLATE = "{% for one in messages %}{{ one.role }}: {{ one.content }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_qwen3._tokenizer()


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


@pytest.mark.parametrize(
    ("cut", "fits", "whole"),
    [
        (lambda ids: ids, True, True),
        (lambda ids: [*ids, EOS], True, True),
        (lambda ids: ids[:3], True, False),
        (lambda ids: ids[-3:], True, False),
        (lambda ids: [*BEFORE, *ids, *BEFORE], True, False),
        # A special token is no text, wherever it stands.
        (lambda ids: [*ids[:2], EOS, *ids[2:]], True, True),
        (lambda ids: [], False, False),
        (lambda ids: [EOS], False, False),
        (lambda ids: ids[1:-1], False, False),
        (lambda ids: [*ids[:2], *BEFORE, *ids[2:]], False, False),
        (lambda ids: ids[::-1], False, False),
    ],
)
def test_a_row_against_its_text(tokenizer, cut, fits, whole):
    text = "Refunds are late, and nobody answers."
    ids = tokenizer(text)["input_ids"]
    found = _compare(tokenizer, cut(ids), text)
    assert (found.ids, found.fits, found.whole) == (ids, fits, whole)


@pytest.mark.parametrize("text", ["", "<|im_end|>"])
@pytest.mark.parametrize(("row", "fits"), [([], True), ([EOS], True), ([11], False)])
def test_a_row_against_no_text(tokenizer, text, row, fits):
    found = _compare(tokenizer, row, text)
    assert (found.ids, found.fits, found.whole) == ([EOS] if text else [], fits, False)


def test_words_whose_tokens_merge_with_their_neighbours_are_held(tokenizer):
    row = tokenizer("a: reclaim all.")["input_ids"]
    assert tokenizer("claim al")["input_ids"] != row[2:4]
    assert _compare(tokenizer, row, "claim al").fits
    assert not _compare(tokenizer, row, "claim at").fits


def test_messages_are_told_as_the_template_renders_them(tokenizer):
    turns = [{"role": "user", "content": "late"}, {"role": "assistant", "content": "sorry"}]
    assert not text_of(tokenizer, turns)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    assert text_of(tokenizer, turns) == tokenizer.apply_chat_template(turns, tokenize=False)
    assert "late" in text_of(tokenizer, turns)
    for other in ([], None, ["late"]):
        assert not text_of(tokenizer, other)
    assert text_of(tokenizer, "late") == "late"


def test_what_isattended_of_a_row():
    row = {"input_ids": [4, 5, 6], "label": 2}
    assert attended(row) == row
    assert attended({**row, "attention_mask": [0, 1, 1]})["input_ids"] == [5, 6]
    assert attended({**row, "attention_mask": [1, 0, 1]})["label"] == 2


def test_the_columns_that_may_be_a_rows_text():
    made = {"note": ["a"], "input_ids": [[1]], "body": ["b"], "kind": ["c"], "messages": [[]]}
    split = SimpleNamespace(
        rows=SimpleNamespace(table=pa.table(made)), labels=SimpleNamespace(column="kind")
    )

    def columns(**settings):
        return text_columns(SimpleNamespace(args=SimpleNamespace(**settings)), split)

    assert columns() == ["messages", "note", "body"]
    assert columns(dataset_text_field="body") == ["body", "messages", "note"]
    split.labels = None
    assert columns() == ["messages", "note", "body", "kind"]


def test_messages_that_are_not_there_or_cannot_be_rendered_are_no_text(tokenizer):
    own = copy.copy(tokenizer)
    messages = [{"role": "user", "content": "a"}]
    own.chat_template = TEMPLATE
    assert written(own, messages) == "user: a<|im_end|>"
    assert written(own, []) is None
    assert written(own, None) is None
    assert written(own, "") == ""  # a text that is empty where its row is not
    own.chat_template = "{{ raise_exception('no') }}"
    assert written(own, messages) is None
    own.chat_template = None
    assert written(own, messages) is None
