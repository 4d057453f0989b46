"""Columns and tokens that are none of what their names, or a part of them, say."""

from __future__ import annotations

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainsanity import Pipeline, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run


def judged(code, rows, tokenizer=None, held=None):
    pipeline = Pipeline(
        torch.nn.Linear(2, 2),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=None if held is None else datasets.Dataset.from_list(held),
        tokenizer=tokenizer,
    )
    return run(pipeline, [registry().get(code)]).results[0].status


@pytest.mark.parametrize(
    ("positive", "negative", "status"),
    [
        (str, str, Status.FAIL),
        (lambda k: [k, 2], lambda k: [k, 2], Status.FAIL),
        (str, lambda k: str(k + 1), Status.PASS),
        (float, float, Status.PASS),
        (lambda k: "", lambda k: "", Status.PASS),
        (lambda k: "yes", lambda k: "yes", Status.PASS),
    ],
)
def test_texts_and_tokens_are_compared_and_scores_are_not(positive, negative, status):
    rows = [{"positive": positive(k), "negative": negative(k)} for k in range(12)]
    assert judged("TS268", rows) is status


@pytest.mark.parametrize(
    "both",
    [
        {"lang": "en"},
        {"title": "of both"},
        {"attention_mask": [1, 1, 1]},
        {"scores": [1.0]},
        {"source": "wiki"},
    ],
)
def test_what_two_texts_have_in_common_is_no_text(both):
    """Titles, masks and languages of two different texts may be equal; all of a text may not."""
    ((name, value),) = both.items()
    common = {f"{side}_{name}": value for side in ("positive", "negative")}
    rows = [{"positive": f"{k} a", "negative": f"{k} b", **common} for k in range(12)]
    same = [{**row, "negative": row["positive"]} for row in rows]
    assert judged("TS268", rows) is Status.PASS
    assert judged("TS268", same) is Status.FAIL


@pytest.mark.parametrize("name", ["neg_2", "negative2", "hard_negative_2", "Negative 2"])
def test_each_of_several_negatives_is_compared(name):
    rows = [{"positive": f"{k}", "neg_1": f"{k} a", name: f"{k}"} for k in range(12)]
    assert judged("TS268", rows) is Status.FAIL


@pytest.mark.parametrize(("whole", "status"), [(True, Status.PASS), (False, Status.FAIL)])
def test_a_shorter_run_of_blanks_is_a_part_of_the_longer(whole, status):
    """Of eight blanks the tokenizer makes one token, though another of four is within it."""
    base = Tokenizer(models.WordLevel({" ": 0, "[UNK]": 1}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, unk_token="[UNK]")
    tokenizer.add_tokens([8 * " ", 4 * " "])
    ids = [tokenizer.convert_tokens_to_ids(8 * " ")] if whole else [0] * 4
    assert judged("TS120", [{"input_ids": ids}] * 8, tokenizer) is status
