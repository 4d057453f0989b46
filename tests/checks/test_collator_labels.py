"""Labels beside their tokens, of rows and batches that are made up."""

from __future__ import annotations

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.checks.collator._labels import Labelled, _target
from trainsanity.checks.collator.labels_aligned import _shifted, _wrong_rows, _wrong_token
from trainsanity.checks.collator.model_takes_batch import _as_default
from trainsanity.checks.collator.rows_unchanged import _changed
from trainsanity.checks.collator.targets_kept import _dropped, _dropped_rows, _ends_with, _left_out
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline

END, OUT = 9, -100


def one(ids, got, own=None, **more):
    return Labelled(3, {"input_ids": ids, **more}, own, got, [])


@pytest.mark.parametrize(
    ("labelled", "language", "says"),
    [
        (one([5, 6, 7], [5, 6, 7]), True, None),
        (one([5, 6, 7], [OUT, 6, OUT]), True, None),
        (one([5, 6, 7], [5, 8, 7]), True, "row 3: the label of token 1 is 8, it should be 6"),
        (one([5, 6, 7], [6, 7, OUT]), True,
         "row 3: the label of token 0 is 6, it should be 5, one place too early: the model shifts "
         "labels itself"),
        (one([5, 6, 7], [OUT, 6, 7], [OUT, 6, 7]), True, None),
        (one([5, 6, 7], [5, 6, 7], [OUT, 6, 7]), True,
         "row 3 excludes token 0 from the loss, and its label is 5"),
        # Not a language model: the labels are the row's own, or anything.
        (one([5, 6, 7], [0, 1, 2], [0, 1, 2]), False, None),
        (one([5, 6, 7], [1, 2, OUT], [0, 1, 2]), False,
         "row 3: the label of token 0 is 1, it should be 0"),
        (one([5, 6, 7], [0, 1, 2]), False, None),
    ],
)  # fmt: skip
def test_a_label_at_the_wrong_token(labelled, language, says):
    assert _wrong_token(labelled, language) == says


@pytest.mark.parametrize(
    ("ids", "labels", "shifted"),
    [
        ([5, 6, 7], [6, 7, OUT], True),
        ([5, 6, 7], [6, 7, 5], True),
        ([5, 6, 7], [OUT, 7, 0], True),
        ([5, 6, 7], [6, 6, OUT], False),
        ([5, 6, 7], [5, 6, 7], False),
        ([5], [5], False),
    ],
)
def test_shifted_by_hand(ids, labels, shifted):
    assert _shifted(ids, labels) is shifted


@pytest.mark.parametrize(
    ("labelled", "language", "says"),
    [
        (one([5, 6, END], [5, 6, END]), True, None),
        (one([5, 6, END], [5, 6, OUT]), True, "row 3 ends with EOS 9, whose label is -100"),
        (one([5, 6, END], [5, 6, OUT]), False, None),
        (one([5, END, 6], [5, OUT, 6]), True, None),
        (one([5, 6, 7], [5, 6, OUT]), True, None),
        # The first is predicted by nothing.
        (one([END], [OUT]), True, None),
        (one([5, 6], [OUT, 6], [5, 6]), True, None),
        (one([5, 6], [OUT, 6], [5, 6]), False,
         "row 3 has the label 5 at token 0, and the batch -100"),
        (one([5, 6, 7], [OUT, 6, OUT], [OUT, 6, 7]), True,
         "row 3 has the label 7 at token 2, and the batch -100"),
        (one([5, END], [5, OUT], [5, OUT]), True, None),
        # What a mask of the row's own leaves out is not asked for.
        (one([5, 6], [5, OUT], [5, 6], completion_mask=[1, 0]), True, None),
        (one([5, 6], [5, OUT], [5, 6], completion_mask=[0, 1]), True,
         "row 3 has the label 6 at token 1, and the batch -100"),
    ],
)  # fmt: skip
def test_a_target_that_is_dropped(labelled, language, says):
    assert _dropped(labelled, language, END) == says


def test_what_a_row_leaves_out_and_ends_with():
    row = {"input_ids": [5, 6, END, 0], "attention_mask": [1, 1, 1, 0], "other": [0, 0, 0, 0]}
    assert _left_out(row) == {3}
    assert _ends_with(row, END)
    assert not _ends_with(row, 0)
    assert _left_out({**row, "assistant_masks": [0, 1, 1, 1]}) == {0, 3}
    assert not _ends_with({"input_ids": [END], "attention_mask": [0]}, END)


def test_labels_of_whole_rows():
    rows = [{"label": 4}, {"label": 5}, {"label": OUT}]
    made = {"labels": torch.tensor([4, 5, OUT])}
    assert _wrong_rows(rows, made, "label", free=False) is None
    assert _dropped_rows(rows, made, "label") is None
    assert _wrong_rows(rows, {"labels": torch.tensor([4, 5, 0])}, None, free=False) is None
    assert _wrong_rows(rows, {"labels": torch.tensor([5, 4, OUT])}, "label", free=False) == (
        "labels [4, 5, -100] came out as [5, 4, -100]"
    )
    gone = {"labels": torch.tensor([4, OUT, OUT])}
    assert _dropped_rows(rows, gone, "label") == "row 1 has the label 5, and the batch -100"
    assert _dropped_rows(rows, gone, None) is None
    assert _dropped_rows(rows, {"labels": torch.tensor([4.0, OUT, OUT])}, "label") is None
    # A loss of the user's own takes what its collator makes of a number.
    grades = {"labels": torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])}
    assert _wrong_rows(rows, grades, "label", free=True) is None
    assert _wrong_rows(rows, grades, "label", free=False) is not None
    # A number that float32 does not hold in full is the same number all the same.
    assert (
        _wrong_rows([{"label": 0.1}], {"labels": torch.tensor([0.1])}, "label", free=False) is None
    )
    several = [{"label": [0.0, 1.0]}, {"label": [1.0, 0.0]}]
    assert (
        _wrong_rows(several, {"labels": torch.tensor([[0.0, 1], [1, 0]])}, "label", free=False)
        is None
    )
    assert _wrong_rows(several, {"labels": torch.tensor([[1.0, 0], [0, 1]])}, "label", free=False)


@pytest.mark.parametrize(
    ("labels", "got", "padding"),
    [
        ([5, 6, OUT], [5, 6], [OUT]),
        ([OUT, OUT, 5, 6], [5, 6], [OUT, OUT]),
        ([6, 5, OUT, OUT], [6, 5], [OUT, OUT]),  # not to be found: as it would lie
    ],
)
def test_a_target_of_a_length_of_its_own(labels, got, padding):
    (found,) = _target(3, {"input_ids": [1, 2, 3], "x": 0}, [5, 6], labels)
    assert (found.i, found.row) == (3, {"input_ids": [5, 6], "x": 0})
    assert (found.own, found.got, found.padding) == ([5, 6], got, padding)


def test_a_target_that_was_cut_is_not_looked_at():
    assert list(_target(3, {"input_ids": [1, 2, 3]}, [5, 6], [6])) == []


@pytest.mark.parametrize(
    ("values", "default"),
    [
        ([0, 0, 0], True),
        ([0, 1, 2], True),
        ([0, 1, 1], False),
        ([1, 1, 1], False),
        ([], True),
        (torch.tensor([0, 1, 2]), True),
        (torch.tensor([0, 2, 1]), False),
        (torch.tensor(0), False),
        ("words", False),
        (0, False),
    ],
)
def test_what_the_model_would_make_by_itself(values, default):
    assert _as_default(values) is default


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ([{"a": [1], "b": 2}, {"a": [3]}], None),
        ([{"a": [1], "b": 2}], "1 of 2 rows are left"),
        ([{"a": [1]}, {"a": [3]}], "b of row 0 is gone"),
        ([{"a": [1], "b": 2}, {"a": [3, 0]}], "a of row 1 is [3, 0] afterwards"),
        ([{"a": [1], "b": 2}, {"a": [3], "c": 4}], "c of row 1 is 4 afterwards"),
    ],
)
def test_rows_that_changed(after, says):
    assert _changed([{"a": [1], "b": 2}, {"a": [3]}], after) == says


# --- translation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translation():
    """Targets of a length of their own, which the collator pads beside the rows."""
    from datasets import Dataset
    from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, T5Config

    trainer = healthy()
    tokenizer = trainer.processing_class
    config = T5Config(
        vocab_size=151_936,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    ids = [[100 + k, *range(200, 203 + k % 4)] for k in range(24)]
    labels = [[500 + k, *range(600, 601 + k % 5), tokenizer.eos_token_id] for k in range(24)]
    ones = [[1] * len(row) for row in ids]
    model = AutoModelForSeq2SeqLM.from_config(config)
    return type(trainer)(
        model=model,
        args=trainer.args,
        train_dataset=Dataset.from_dict(
            {"input_ids": ids, "attention_mask": ones, "labels": labels}
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )


LABELS = ["collator.labels_aligned", "collator.padding_ignored", "collator.targets_kept"]


def judged(trainer, change=lambda labels: labels):
    collator = trainer.data_collator

    def collate(rows):
        made = collator(rows)
        made["labels"] = change(made["labels"])
        return made

    trainer.data_collator = collate
    try:
        results = run(Pipeline.from_trainer(trainer), registry().select(LABELS)).results
    finally:
        trainer.data_collator = collator
    return {r.check.name: r for r in results if r.check.name in LABELS}


def test_a_translation_whose_targets_are_kept(translation):
    results = judged(translation)
    assert {str(result.status) for result in results.values()} == {"pass"}, results


@pytest.mark.parametrize(
    ("change", "red"),
    [
        (lambda labels: labels.masked_fill(labels == 600, 601), "collator.labels_aligned"),
        (lambda labels: labels.masked_fill(labels == OUT, 7), "collator.padding_ignored"),
        (lambda labels: labels.masked_fill(labels == 600, OUT), "collator.targets_kept"),
    ],
)
def test_a_translation_whose_targets_are_not(translation, change, red):
    results = judged(translation, change)
    assert str(results[red].status) == "fail", results
