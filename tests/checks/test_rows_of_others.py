"""Columns and tokens that are none of what their names, or a part of them, say."""

from __future__ import annotations

import json
import string
from types import SimpleNamespace

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainsanity import Pipeline, Status
from trainsanity.checks.dataset.answers_are_read import LEAST, answers_are_read
from trainsanity.checks.tokenizer import bos_once
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.measurements.data.left_answers import LeftAnswers
from trainsanity.types import Finding


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


def standard(values):
    values = torch.tensor(values, dtype=torch.float64)
    return ((values - values.mean()) / values.std()).tolist()


RAMP = standard([float(k) for k in range(160)])


@pytest.mark.parametrize(
    ("trained", "held", "status"),
    [
        # Prices beside standardised ones, or centred ones.
        (RAMP, [40.0 + k for k in range(24)], Status.FAIL),
        (RAMP, [30.0 * (k - 12) for k in range(24)], Status.FAIL),
        # The next months of what grows, one group, one kind: the scale may be right.
        (RAMP, [RAMP[-1] + 0.02 * k for k in range(24)], Status.WARNING),
        (RAMP, [0.3 + 0.001 * k for k in range(24)], Status.WARNING),
        (RAMP, [-1.0] * 24, Status.WARNING),
        # Rain: most days have none, and a few weeks may have none at all.
        (standard([0.0] * 144 + [5.0] * 16), standard([0.0] * 144 + [5.0] * 16)[:12], Status.PASS),
        # Some large values in a hundred, and none in these.
        (standard([1.5**k for k in range(40)]), standard([1.5**k for k in range(40)])[:36:2],
         Status.PASS),
    ],
)  # fmt: skip
def test_targets_of_another_scale_lie_outside_of_the_trained(trained, held, status):
    rows, others = (
        [{"x": [float(k)], "labels": y} for k, y in enumerate(part)] for part in (trained, held)
    )
    assert judged("TS269", rows, held=others) is status


CUE = [*range(20, 30)]


@pytest.mark.parametrize(
    ("example", "found"),
    [
        # The row itself, in front of another one.
        (lambda k: [100 + k, *CUE, 7, 1, 500 + k, *CUE, 8], True),
        # Two classes, asked for in many words; both are shown.
        (lambda k: [500 + k, *CUE, 7, 1, 600 + k, *CUE, 8], False),
        # One of four commands, among which the same is shown.
        (lambda k: [100 + k % 4, *CUE, 7, 1, 600 + k, *CUE, 8], False),
        # A draft of the answer behind the same words.
        (lambda k: [1, *CUE, 7, 100 + k], False),
    ],
)
def test_what_all_prompts_end_with_is_no_question(example, found):
    documents = []
    for k in range(16):
        ids = [*example(k), 1, 100 + (k % 4 if example(k)[0] == 100 + k % 4 else k), *CUE, 7]
        documents.append(Document(k, ids, [-100] * (len(ids) - 1) + [7], {}, cut=False))
    check = registry().get("TS267")
    told = [*check.fn(documents=Documents(documents, 16, "", None, {}))]
    assert any(isinstance(one, Finding) for one in told) is found


def of_letters():
    """Return a tokenizer of single characters."""
    letters = [*string.printable, "[UNK]"]
    base = Tokenizer(models.WordLevel({c: k for k, c in enumerate(letters)}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    base.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=base, unk_token="[UNK]")


QUESTIONS = ["where is it?", "who was that?", "what's new?"]
ANSWERS = ["at home", "a man", "nothing"]
CALL = "create(messages=[{'role': 'user', 'content': 'hello'}])"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (lambda k: f"Q: {QUESTIONS} A: {ANSWERS}", Status.FAIL),
        (lambda k: f"Q: {json.dumps(QUESTIONS)} A: {json.dumps(ANSWERS)}", Status.PASS),
        # As many tags as words, in sentences of their own length.
        (lambda k: f"{[f'a {w}' for w in 'abc' * (k % 5 + 1)]} {['O'] * 3 * (k % 5 + 1)}",
         Status.PASS),
        # Names of columns, and what is in a row of a table.
        (lambda k: f"zip({['id', 'name', 'town']}, {['7', 'Ann', 'Rome']})", Status.PASS),
        (lambda k: "user: [{'type': 'text', 'text': 'hello'}]", Status.FAIL),
        (lambda k: "Message(content=[{'type': 'text', 'text': 'hello'}])", Status.FAIL),
        (lambda k: CALL, Status.PASS),
        (lambda k: f"talk.append({CALL[17:-1]})", Status.PASS),
    ],
)  # fmt: skip
def test_lists_in_rows_are_columns_if_they_are_batches_of_texts(text, status):
    tokenizer = of_letters()
    rows = [dict(tokenizer(text(k))) for k in range(20)]
    assert judged("TS233", rows, tokenizer) is status


BOS = 1


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ([BOS, 5, 6], lambda k: [BOS, 10 + k, 7], True),
        # The header of a turn.
        ([BOS, 5, 6], lambda k: [BOS, 9, 10 + k], False),
        # The places of a picture, and the text behind it.
        ([4, 4, 4], lambda k: [BOS, 10 + k, 7], False),
    ],
)
def test_an_answer_has_a_bos_of_its_own_where_the_prompt_has_one(
    monkeypatch, prompt, answer, found
):
    documents = [
        Document(k, [*prompt, *answer(k)], [-100] * 3 + answer(k), {}, cut=False) for k in range(16)
    ]
    get = {"documents": Documents(documents, 16, "", None, {})}.get
    session = SimpleNamespace(measurements=SimpleNamespace(get=get))
    monkeypatch.setattr(bos_once, "Session", SimpleNamespace(of=lambda _: session))
    tokenizer = SimpleNamespace(
        bos_token_id=BOS, eos_token_id=2, convert_ids_to_tokens=lambda one: "<s>"
    )
    assert bool([*bos_once._of_answers(SimpleNamespace(tokenizer=tokenizer))]) is found


def labelled(label, count=60):
    """Return texts, three times each, with the labels of three people."""
    return [
        {"input_ids": [10 + k, 11 + k, 7 * k], "label": label(k, person)}
        for person in range(3)
        for k in range(count)
    ]


@pytest.mark.parametrize(
    ("label", "status"),
    [
        # Two of three say the same, the third says anything.
        (lambda k, person: k % 6 if person < 2 else k % 7 % 6, Status.WARNING),
        # Each column of labels belongs to other rows.
        (lambda k, person: (7 * k + k // (person + 2)) % 6, Status.FAIL),
        (lambda k, person: k % 6, Status.PASS),
    ],
)
def test_people_agree_better_than_labels_of_other_rows(label, status):
    assert judged("TS208", labelled(label)) is status


@pytest.mark.parametrize(("greeted", "status"), [(4, Status.FAIL), (100, Status.PASS)])
def test_a_greeting_that_many_chats_begin_with_is_no_row_of_theirs(greeted, status):
    """Four rows held out are the first turn alone, with which some or most chats begin."""
    first = [*range(100, 124)]
    rows = [
        {"input_ids": [*(first if k < greeted else range(500, 524)), *range(k, k + 20)]}
        for k in range(100)
    ]
    held = [{"input_ids": [*first, 7, 7 + k]} for k in range(4)]
    held += [{"input_ids": [*range(600 + k, 640 + k)]} for k in range(12)]
    assert judged("TS209", rows, held=held) is status
