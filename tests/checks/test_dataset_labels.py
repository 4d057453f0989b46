"""Labels of one class, labels that follow no column, and a PAD that is EOS."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset

from fixtures.controls import all_controls
from fixtures.faults import all_faults, healthy
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Severity, Status

CONTROLS = {control.id: control for control in all_controls()}
FAULTS = {fault.id: fault for fault in all_faults()}
IDS = [[k, k + 1, k + 2] for k in range(8)]
EOS = 151_645


@pytest.fixture
def trainer():
    return healthy()


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        ([3] * 8, Status.WARNING),
        ([3] * 7 + [4], Status.PASS),
        # What the loss ignores is no second class, and a failure by itself.
        ([3] * 7 + [-100], Status.BLOCKED),
    ],
)
def test_one_class(trainer, labels, status):
    trainer.train_dataset = Dataset.from_dict({"input_ids": IDS, "label": labels})
    assert run_one("TS210", Pipeline.from_trainer(trainer)).status is status


def test_one_target_of_a_regression():
    trainer = CONTROLS["regression"].build(rows=40)
    data = trainer.train_dataset.remove_columns("labels")
    trainer.train_dataset = data.add_column("labels", [0.5] * len(data))
    result = run_one("TS210", Pipeline.from_trainer(trainer))
    assert result.status is Status.WARNING
    assert "are all 0.5" in result.findings[0].headline


def with_column(trainer, name, values, collate):
    """The Trainer with its labels in another column, and a collator for the rest."""
    data = trainer.train_dataset.remove_columns("label")
    trainer.train_dataset = data.add_column(name, values)
    healthy_collator = trainer.data_collator

    def collator(rows):
        given = [{key: row[key] for key in ("input_ids", "attention_mask")} for row in rows]
        return {**healthy_collator(given), "labels": torch.tensor([collate(row) for row in rows])}

    trainer.data_collator = collator
    return trainer


def judged(trainer):
    return run_one("collator.labels_from_dataset", Pipeline.from_trainer(trainer))


@pytest.mark.parametrize("name", ["intent", "column_7"])
def test_a_column_that_nobody_passes_on(trainer, name):
    result = judged(with_column(trainer, name, [k % 7 for k in range(300)], lambda row: 0))
    assert result.status is Status.FAIL
    assert result.findings[0].headline == (
        f"column {name!r} has 7 different values, and rows that differ in it all get the label 0: "
        "the collator is not given that column"
    )
    assert result.findings[0].expected == 7


def test_a_column_that_the_collator_is_given_and_does_not_use(trainer):
    trainer.args.remove_unused_columns = False
    result = judged(with_column(trainer, "stars", [k % 5 for k in range(300)], lambda row: 1))
    assert result.status is Status.FAIL
    assert "the collator is given that column" in result.findings[0].headline


def test_a_column_that_the_collator_uses_is_the_label(trainer):
    """Also where the first step happens to have one label only."""
    trainer.args.remove_unused_columns = False
    values = [int(k == 299) for k in range(300)]
    result = judged(with_column(trainer, "stars", values, lambda row: row["stars"]))
    assert result.status is Status.PASS
    assert "16 labels of the first step have 1 different values" in result.message


@pytest.mark.parametrize(
    "values",
    [
        [*range(300)],  # a number for each row
        [3] * 300,
        [f"text {k}" for k in range(300)],
    ],
)
def test_columns_that_do_not_look_like_labels(trainer, values):
    result = judged(with_column(trainer, "column_7", values, lambda row: 0))
    assert result.status is Status.PASS


def test_labels_of_the_collators_own_are_a_warning(trainer):
    made = with_column(trainer, "intent", [k % 7 for k in range(300)],
                       lambda row: row["input_ids"][0] % 3)  # fmt: skip
    made.train_dataset = made.train_dataset.cast_column("intent", ClassLabel(names=[*"abcdefg"]))
    result = judged(made)
    assert result.status is Status.WARNING
    assert "which makes labels of its own" in result.findings[0].headline


def test_constant_labels_beside_a_loss_of_the_users_own_are_a_warning(trainer):
    made = with_column(trainer, "intent", [k % 7 for k in range(300)], lambda row: 0)

    class Own(type(made)):
        def compute_loss(self, model, inputs, **kwargs):
            return model(**inputs).loss

    made.__class__ = Own
    result = judged(made)
    assert (result.status, result.findings[0].severity) == (Status.WARNING, Severity.WARNING)


def test_a_collator_that_refuses_other_rows(trainer):
    made = with_column(trainer, "intent", [k % 7 for k in range(300)], lambda row: 0)
    inner, known = made.data_collator, {4}

    def collator(rows):
        if len(rows) not in known:
            raise ValueError("four rows, please")
        return inner(rows)

    made.data_collator = collator
    assert judged(made).status is Status.FAIL


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda row: {}, Status.WARNING, "it stands in 0 rows, and is a label 0 times"),
        (
            lambda row: {"input_ids": [*row["input_ids"], EOS],
                         "attention_mask": [*row["attention_mask"], 1]},
            Status.FAIL,
            "it stands in 300 rows, and is a label 0 times",
        ),
        # Stored padding, as the mask says.
        (
            lambda row: {"input_ids": [*row["input_ids"], EOS],
                         "attention_mask": [*row["attention_mask"], 0]},
            Status.WARNING,
            "it stands in 0 rows, and is a label 0 times",
        ),
    ],
)  # fmt: skip
def test_a_pad_that_is_eos(change, status, says):
    trainer = FAULTS["pad_is_eos"].build()
    trainer.train_dataset = trainer.train_dataset.map(change, new_fingerprint=says + str(status))
    result = run_one("TS102", Pipeline.from_trainer(trainer))
    assert result.status is status
    assert says in result.findings[0].headline
    assert result.message == f"PAD is {EOS}, EOS is {EOS}"


def test_without_a_mask_an_eos_at_the_end_is_text():
    trainer = FAULTS["pad_is_eos"].build()
    trainer.train_dataset = Dataset.from_dict(
        {"input_ids": [[*ids, EOS] for ids in IDS], "label": [*range(8)]}
    )
    trainer.eval_dataset = None
    result = run_one("TS102", Pipeline.from_trainer(trainer))
    assert result.status is Status.FAIL
    assert "it stands in 8 rows" in result.findings[0].headline


def test_an_eos_among_the_targets_of_a_language_model():
    trainer = FAULTS["pad_is_eos_in_a_language_model"].build()
    data = trainer.train_dataset.select(range(8)).to_list()
    rows = [{"input_ids": row["input_ids"][:-1], "labels": [-100, EOS]} for row in data]
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    trainer.train_dataset = Dataset.from_list(rows)
    result = run_one("TS102", PipelineSpec("eos", lambda: trainer).make())
    assert result.status is Status.FAIL
    assert "it stands in 0 rows, and is a label 8 times" in result.findings[0].headline


def test_rows_that_cannot_be_read_leave_it_a_failure():
    trainer = FAULTS["pad_is_eos"].build()

    class Tuples(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, k):
            return (IDS[k], k)

    trainer.train_dataset = Tuples()
    result = run_one("TS102", Pipeline.from_trainer(trainer))
    assert result.status is Status.FAIL
    assert "the rows cannot be searched for it" in result.findings[0].headline
