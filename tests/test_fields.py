from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainsanity.fields import (
    AUDIO,
    NUMBERS,
    PIXELS,
    Content,
    cut_of,
    flat_batch,
    logits_of,
    role_of,
    sequences_of,
    token_content,
    with_targets,
)

PAIRS = [
    {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]},
    {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8, 9]},
]


@pytest.mark.parametrize(
    ("names", "columns", "sequences"),
    [
        ("input_ids attention_mask labels", "input_ids", ["input_ids"]),
        (
            "prompt chosen_ids rejected_ids prompt_ids",
            "prompt_ids chosen_ids rejected_ids",
            ["prompt_ids chosen_ids", "prompt_ids rejected_ids"],
        ),
        (
            "chosen_input_ids rejected_input_ids",
            "chosen_input_ids rejected_input_ids",
            ["chosen_input_ids", "rejected_input_ids"],
        ),
        (
            "input_ids_chosen input_ids_rejected attention_mask_chosen",
            "input_ids_chosen input_ids_rejected",
            ["input_ids_chosen", "input_ids_rejected"],
        ),
        (
            "completion_ids KL_completion_ids prompt_ids label",
            "prompt_ids completion_ids",
            ["prompt_ids completion_ids"],
        ),
    ],
)
def test_where_token_ids_lie(names: str, columns: str, sequences: list[str]) -> None:
    content = token_content(names.split())
    assert content is not None
    assert content.columns == tuple(columns.split())
    assert content.sequences == tuple(tuple(one.split()) for one in sequences)


@pytest.mark.parametrize("names", ["text label", "token_type_ids position_ids", "valids kids"])
def test_where_no_token_ids_lie(names: str) -> None:
    assert token_content(names.split()) is None


def test_roles_by_name() -> None:
    assert role_of("pixel_values") == PIXELS
    assert role_of("input_features") == AUDIO
    assert role_of("x") == NUMBERS


def test_the_words_of_columns() -> None:
    assert Content("token ids", ("a", "b", "c")).words == "a, b and c"
    assert Content("token ids", ("a",)).words == "a"


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3]], ids=["halves", "neighbours"])
def test_sides_of_pairs_in_the_order_of_the_batch(order: list[int]) -> None:
    ids = torch.tensor([[1, 2, 3, 4], [6, 7, 0, 0], [1, 2, 5, 0], [6, 8, 9, 0]])[order]
    found = sequences_of(PAIRS, {"input_ids": ids})
    assert found is not None
    rows = [[token for token in row if token] for row in ids.tolist()]
    assert [one["input_ids"] for one in found] == rows
    first = next(one for one in found if one["input_ids"] == [1, 2, 3, 4])
    assert first["completion_mask"] == [0, 0, 1, 1]


@pytest.mark.parametrize(("mode", "kept"), [("keep_start", [1, 2, 3]), ("keep_end", [2, 3, 4])])
def test_a_collator_that_joins_columns_cuts_by_its_own_setting(mode: str, kept: list[int]) -> None:
    collator = SimpleNamespace(max_length=3, truncation_mode=mode)
    found = sequences_of(PAIRS[:1], {"input_ids": torch.tensor([kept, [1, 2, 5]])}, collator)
    assert found is not None
    assert found[0]["input_ids"] == kept
    assert cut_of(SimpleNamespace(max_length=None)) == slice(None)


def test_choices_stand_one_after_the_other() -> None:
    ids = torch.arange(12).view(2, 3, 2)
    rows = [{"input_ids": one, "label": 1} for one in ids.tolist()]
    found = sequences_of(rows, {"input_ids": ids})
    assert found is not None
    assert [one["input_ids"] for one in found] == ids.view(-1, 2).tolist()
    flat = flat_batch({"input_ids": ids, "labels": torch.zeros(2)})
    assert flat["input_ids"].tolist() == ids.view(-1, 2).tolist()
    assert flat["labels"].shape == (2,)


def test_rows_without_token_ids_have_no_sequences() -> None:
    assert sequences_of([{"text": "a"}], {"input_ids": torch.zeros(1, 2)}) is None
    assert sequences_of([{"input_ids": [1]}], {"pixel_values": torch.zeros(1, 2)}) is None


def test_a_mask_of_answers_stands_for_labels() -> None:
    ids = torch.tensor([[1, 2, 3, 0]])
    batch = {"input_ids": ids, "completion_mask": torch.tensor([[0, 1, 1, 0]])}
    rows, made = with_targets([{"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1]}], batch, -100)
    assert made["labels"].tolist() == [[-100, 2, 3, -100]]
    assert rows[0]["labels"] == [-100, 2, 3]
    kept = {**batch, "labels": ids}
    assert with_targets([], kept, -100) == ([], kept)


def test_what_a_model_predicts() -> None:
    logits = torch.zeros(2, 3)
    named = namedtuple("named", "loss logits")
    for output in (
        logits,
        {"loss": torch.tensor(1.0), "logits": logits},
        (torch.tensor(1.0), logits),
        named(None, logits),
        SimpleNamespace(logits=logits),
    ):
        assert logits_of(output) is logits
    span: Any = logits_of(SimpleNamespace(start_logits=logits, end_logits=logits + 1))
    assert span.shape == (2, 3, 2)
    assert logits_of(SimpleNamespace(last_hidden_state=logits)) is None
    assert logits_of((torch.tensor(1.0),)) is None


def test_three_answers_to_a_prompt_are_found_in_whatever_order():
    row = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "reference_ids": [6]}
    ids = torch.tensor([[1, 2, 6, 0], [1, 2, 3, 0], [1, 2, 4, 5]])
    found = sequences_of([row], {"input_ids": ids})
    assert found is not None
    assert [one["input_ids"] for one in found] == [[1, 2, 6], [1, 2, 3], [1, 2, 4, 5]]
