"""What the tokenizer and dataset checks say of bad rows: one sentence each, and where they are."""

from __future__ import annotations

import copy

import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset

from fixtures.controls import all_controls
from fixtures.faults import healthy
from trainsanity import UsageError
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Severity, Status

CONTROLS = {control.id: control for control in all_controls()}
PAD, EOS = 151_643, 151_645


@pytest.fixture(scope="module")
def trainer():
    return healthy()


@pytest.fixture
def judged(trainer):
    """One check's result on other data."""
    before = trainer.train_dataset, trainer.eval_dataset

    def judged(name, train, evaluation=None):
        trainer.train_dataset, trainer.eval_dataset = train, evaluation
        return run_one(name, Pipeline.from_trainer(trainer))

    yield judged
    trainer.train_dataset, trainer.eval_dataset = before


def rows(ids=None, label=None, **columns):
    ids = [[k, k + 1, k + 2] for k in range(8)] if ids is None else ids
    label = list(range(len(ids))) if label is None else label
    return Dataset.from_dict({"input_ids": ids, "label": label, **columns})


def said(result):
    assert result.status is Status.FAIL, result
    return [finding.headline for finding in result.findings]


def replaced(values, place, value):
    return [value if k == place else old for k, old in enumerate(values)]


IDS = [[k, k + 1, k + 2] for k in range(8)]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (-5, "row 2 of train_dataset has the id -5, the embedding has rows 0 to 151935"),
        (2**31 - 1, "row 2 of train_dataset has the id 2147483647, the embedding has rows 0 to"),
    ],
)
def test_ids_outside(judged, bad, says):
    (message,) = said(judged("TS105", rows(replaced(IDS, 2, [1, bad]))))
    assert message.startswith(says)


def test_null_empty_and_uneven_rows(judged):
    bad = replaced(replaced(IDS, 3, None), 5, [])
    assert said(judged("TS206", rows(bad))) == [
        "1 of 8 rows in train_dataset are null, or have a null among their ids; "
        "the first is row 3 of train_dataset",
        "1 of 8 rows in train_dataset are without text; the first is row 5 of train_dataset",
    ]
    (message,) = said(judged("TS206", rows(replaced(IDS, 4, [7, None, 9]))))
    assert "null among their ids; the first is row 4" in message
    masks = replaced([[1, 1, 1]] * 8, 6, [1, 1])
    (message,) = said(judged("TS206", rows(attention_mask=masks)))
    assert "of another length than their attention_mask; the first is row 6" in message
    hidden = replaced([[1, 1, 1]] * 8, 7, [0, 0, 0])
    (message,) = said(judged("TS206", rows(attention_mask=hidden)))
    assert "without text; the first is row 7" in message


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 2, 3, None, 5, 6, 7], "row 4 of train_dataset has no label in column 'label';"),
        ([0, 1, 2, None, None, 5, 6, 7], "has no label in column 'label' (2 rows do);"),
        ([True, False] * 4, "row 0 of train_dataset has a bool in column 'label';"),
        ([[0, 1], [2]] * 4, "row 0 of train_dataset has a list<"),
        ([0.0, float("nan")] * 4, "has a label that is not finite in column 'label' (4 rows do);"),
        ([0.0, 1.0] * 4, "has a double in column 'label'; multi_label_classification takes a list"),
    ],
    ids=["null", "nulls", "bool", "ragged", "nan", "float"],
)
def test_labels_that_do_not_fit(judged, labels, says):
    result = judged("TS202", rows(label=labels))
    assert any(says in message for message in said(result)), result.findings
    # One float a row is taken for several labels, since its type is all there is to go by.
    guessed = any(isinstance(label, float) for label in labels)
    assert {f.cause for f in result.findings} == {
        "the labels' type decides the loss unless config.problem_type is set"
        if guessed
        else "the labels were made for another task, or by another rule"
    }


def test_names_of_classes_are_told_with_how_to_map_them(judged):
    names = ["sales", "tech"] * 4
    result = judged("TS202", rows(label=names), rows(label=[None, "s" * 99, *names[2:]]))
    assert said(result) == [
        "column 'label' of train_dataset holds text ('sales'); single_label_classification takes "
        "the numbers of the classes",
        f"column 'label' of eval_dataset holds text ('{'s' * 40}...'); "
        "single_label_classification takes the numbers of the classes",
    ]
    (fix,) = {finding.fix for finding in result.findings}
    assert fix.startswith("map it to 0 to 279: dataset.cast_column('label', ClassLabel(names=")
    # What it says to do is what datasets does.
    mapped = Dataset.from_dict({"label": names}).cast_column("label", ClassLabel(names=names[:2]))
    assert mapped["label"][:2] == [0, 1]


def test_labels_out_of_range_by_dataset(judged):
    result = judged("TS201", rows(label=[0, 1, -1, 3, 4, 280, 280, 7]), rows(label=[-100] * 8))
    assert said(result) == [
        "1 of 8 rows in train_dataset have the label -1; the head has outputs 0 to 279",
        "2 of 8 rows in train_dataset have the label 280; the head has outputs 0 to 279",
        "8 of 8 rows in eval_dataset have the label -100; the head has outputs 0 to 279",
    ]
    assert [f.where for f in result.findings] == [
        "row 2 of train_dataset", "row 5 of train_dataset", "row 0 of eval_dataset",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "change", "says"),
    [
        ("token_labels", lambda y: y[:-1], "another number of labels than tokens"),
        ("token_labels", lambda y: [-100] * len(y), "no label but -100"),
        ("token_labels", lambda y: [5, *y[1:]], "the label 5 in column 'labels'; token_class"),
        ("instructions", lambda y: [-1, *y[1:]], "the label -1 in column 'labels'; causal_lm"),
        ("multi_label", lambda y: [*y, 0.0], "not the right number of targets (7 to 8 are there)"),
        ("multi_label", lambda y: [2.0, *y[1:]], "the label 2 in column 'labels'; multi_label"),
        ("regression", lambda y: float("inf"), "a label that is not finite"),
    ],
)
def test_labels_of_other_tasks(base, change, says):
    made = CONTROLS[base].build()
    data = made.train_dataset.to_list()
    data[7] = {**data[7], "labels": change(data[7]["labels"])}
    made.train_dataset = Dataset.from_list(data)
    result = run_one("TS202", Pipeline.from_trainer(made))
    assert any(says in message for message in said(result)), result.findings


def test_whole_numbers_are_no_targets_of_several_labels():
    made = CONTROLS["multi_label"].build()
    table = made.train_dataset.data.table
    column = table.column("labels").combine_chunks().cast(pa.list_(pa.int64()))
    made.train_dataset = Dataset(table.set_column(table.schema.get_field_index("labels"),
                                                  "labels", column))  # fmt: skip
    result = run_one("TS202", Pipeline.from_trainer(made))
    assert "takes a list of 7 floats between 0 and 1" in said(result)[0]
    assert result.findings[0].cause == "the labels were made for another task, or by another rule"
    one_each = [float(k) for k in range(len(column))]
    made.train_dataset = made.train_dataset.remove_columns("labels").add_column("labels", one_each)
    finding, *_ = run_one("TS202", Pipeline.from_trainer(made)).findings
    assert "row 0 of train_dataset has a double in column 'labels'" in finding.headline
    assert "the labels' type decides the loss" in finding.cause


def test_label_names(judged, trainer):
    config = trainer.model.config
    before = copy.deepcopy((config.id2label, config.label2id))
    try:
        config.label2id = {**config.label2id, "LABEL_3": 4}
        (message,) = said(judged("TS203", rows()))
        assert message == "config.label2id is not the inverse of config.id2label: 'LABEL_3' differs"
        config.label2id = {**before[1], "LABEL_3": 2}
        assert "'LABEL_3' differs" in said(judged("TS203", rows()))[0]
        # run_glue.py sets one of the two: no name is wrong, and predictions have none.
        count = len(before[0])
        config.label2id = {f"topic {k}": k for k in range(count)}
        result = judged("TS203", rows())
        assert result.status is Status.WARNING
        assert "id2label has LABEL_0, LABEL_1, ..." in result.findings[0].headline
        config.id2label, config.label2id = {k: f"t {k}" for k in range(count)}, before[1]
        (finding,) = judged("TS203", rows()).findings
        assert (finding.where, finding.severity) == ("model.config.label2id", Severity.WARNING)
        # Names that are the numbers say what LABEL_0 says.
        config.id2label, config.label2id = before[0], {str(k): k for k in range(count)}
        assert judged("TS203", rows()).status is Status.PASS
        config.id2label, config.label2id = before
        names = ["a", "b", *"cdefgh"]
        train = rows().cast_column("label", ClassLabel(names=names))
        fewer = rows(label=[0] * 8).cast_column("label", ClassLabel(names=names[:5]))
        assert judged("TS203", train).status is Status.PASS
        (message,) = said(judged("TS203", train, {"test": fewer}))
        assert message == "label 5 is 'f' in train_dataset and 'none' in eval_dataset['test']"
    finally:
        config.id2label, config.label2id = before


def test_what_repeats_is_named_by_its_number_in_the_dataset(judged):
    data = rows([*IDS, [1, 2, 3], [0, 1, 2]], [*range(8), 1, 99])
    (finding,) = judged("TS207", data).findings
    assert finding.severity is Severity.WARNING
    message = finding.headline
    assert message == ("1 of 10 rows in train_dataset repeat an earlier one: row 8 is row 1 again")
    (finding,) = judged("TS208", data).findings
    assert finding.severity is Severity.WARNING
    assert finding.headline == (
        "1 of 10 rows in train_dataset have the ids of another and a different label: "
        "rows 0 (0) and 9 (99)"
    )
    (finding,) = judged("TS209", rows(), {"late": rows([[9], [3, 4, 5]])}).findings
    assert finding.headline == (
        "1 of 2 rows in eval_dataset['late'] are in train_dataset, too: row 1 is row 3 there"
    )


def test_without_a_tokenizer_a_single_token_is_a_text(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "train_dataset", rows([[5], [6, 7], [], [8]]))
    pipeline = Pipeline.from_trainer(trainer)
    pipeline.tokenizer = None
    result = run_one("dataset.rows_are_whole", pipeline)
    assert said(result) == [
        "1 of 4 rows in train_dataset are without text; the first is row 2 of train_dataset"
    ]
    assert result.findings[0].fix == 'dataset.filter(lambda row: len(row["input_ids"]) > 0)'
    monkeypatch.setattr(trainer, "train_dataset", rows([[5], [6, 7], [8], [9]]))
    pipeline = Pipeline.from_trainer(trainer)
    pipeline.tokenizer = None
    result = run_one("dataset.rows_are_whole", pipeline)
    assert result.status is Status.PASS
    assert result.message.startswith(
        "of 4 rows in train_dataset, 24 rows in eval_dataset: 0 hold a"
    )
    assert "0 have no text," in result.message


@pytest.mark.parametrize("low", [-3, 0, 5])
def test_contradictions_between_labels_from_any_number_on(judged, low):
    labels = [low + k for k in (0, 1, 2, 0, 1)]
    data = rows([[1, 2], [3, 4], [5, 6], [1, 2], [3, 4]], labels)
    assert judged("TS208", data).status is Status.PASS
    (finding,) = judged("TS208", rows(data["input_ids"], [*labels[:4], low + 2])).findings
    assert finding.headline == (
        "1 of 5 rows in train_dataset have the ids of another and a different label: "
        f"rows 1 ({low + 1}) and 4 ({low + 2})"
    )


@pytest.mark.parametrize(("other", "status"), [(2, Status.WARNING), (3, Status.FAIL)])
def test_contradictions_are_a_failure_where_most_rows_have_one(judged, other, status):
    """Of eight rows two or three stand beside another label."""
    ids = [[k, k + 1] for k in range(4)] * 2
    labels = [0, 1, 2, 3, *(9 if k < other else k for k in range(4))]
    assert judged("TS208", rows(ids, labels)).status is status


def test_two_rows_that_were_not_cut_tell_what_the_others_lost(judged):
    cut = [[*range(4 * k + 10, 4 * k + 14)] for k in range(6)]
    (message,) = said(judged("TS108", rows([*cut, [1, 2, EOS], [3, EOS]])))
    assert message.startswith("6 of 6 rows of the greatest length 4 do not end with '<|im_end|>'")
    assert judged("TS108", rows([*cut, [1, 2, 3], [2, 3]])).status is Status.PASS
    # A single one may be what is left of a stream that was cut into blocks.
    assert judged("TS108", rows([*cut, [1, 2, 3, 4], [1, 2, EOS]])).status is Status.PASS


def test_padding_without_a_mask(judged):
    padded = [[PAD] * (k % 3) + [7] * 5 + [PAD] * (2 - k % 3) for k in range(8)]
    result = judged("TS204", rows(padded))
    assert result.status is Status.WARNING
    assert [finding.headline for finding in result.findings] == [
        "28.6% of the positions stored in train_dataset are padding, "
        "and the collator pads by itself"
    ]
    assert result.factor == pytest.approx(7 / 5)
    # Rows of tensors, as a torch Dataset returns them, are rows.
    assert (
        judged("TS233", [{"input_ids": torch.tensor(row)} for row in padded]).status is Status.PASS
    )
    # Inside a text it is no padding.
    assert judged("TS204", rows([[7, PAD, 8]] * 8)).status is Status.PASS
    (message,) = said(judged("TS106", rows([[7, PAD, 8]] * 3 + [[7, 8, 9]] * 5)))
    assert "3 of 8 rows in train_dataset contain PAD" in message


def test_rows_longer_than_the_tokenizer_allows(judged, trainer):
    trainer.processing_class.model_max_length, before = 2, trainer.processing_class.model_max_length
    try:
        (message,) = said(judged("TS205", rows([*IDS[:7], [1, 2]])))
    finally:
        trainer.processing_class.model_max_length = before
    assert message == (
        "7 of 8 rows in train_dataset are longer than tokenizer.model_max_length = 2; "
        "the longest has 3 tokens"
    )


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"ids": IDS, "label": [0] * 8},
            "train_dataset has no column 'input_ids' (it has ids, lab",
        ),
        ({"input_ids": [1] * 8, "label": [0] * 8}, "input_ids of train_dataset is of type int"),
    ],
)
def test_columns_that_cannot_be_trained_on_end_the_run(trainer, columns, says):
    before, trainer.train_dataset = trainer.train_dataset, Dataset.from_dict(columns)
    try:
        with pytest.raises(UsageError) as raised:
            run(Pipeline.from_trainer(trainer), registry().select(["TS1", "TS2"]))
    finally:
        trainer.train_dataset = before
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_ends_early(tmp_path):
    path = tmp_path / "data.arrow"
    table = pa.table({"input_ids": [[1, 2, 3]] * 500})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes()[:-2_000])
    spec = PipelineSpec("mine:build", lambda: Dataset.from_file(str(path)))
    with pytest.raises(UsageError, match=r"mine:build raised \w+: ") as raised:
        spec.make()
    assert "\n" not in str(raised.value)


def test_the_limit_is_said_where_none_is_known(judged, trainer):
    result = judged("TS205", rows())
    assert result.message == (
        "8 rows have 3 to 3 tokens, 3.0 on average; "
        "model.config.max_position_embeddings allows 40960"
    )


def test_generation_that_does_not_stop_at_eos():
    made = CONTROLS["language_model"].build()
    made.processing_class = None
    generation = made.model.generation_config
    generation.eos_token_id = [151_644]
    made.model.config.pad_token_id = PAD
    (message,) = said(run_one("TS104", Pipeline.from_trainer(made)))
    assert message == f"generation stops at [151644], not at the tokenizer's EOS {EOS}"


def test_ids_of_the_checkpoints_files(trainer, tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 2, "bos_token_id": 151643}')
    trainer.model.config._name_or_path, before = str(tmp_path), trainer.model.config._name_or_path
    try:
        pipeline = Pipeline.from_trainer(trainer)
        (message,) = said(run_one("TS104", pipeline))
        assert message == (
            f"eos_token_id is 2 in config.json of {tmp_path}; "
            "to this tokenizer that is no special token"
        )
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(UsageError, match=r"config\.json is not valid JSON"):
            run_one("TS104", Pipeline.from_trainer(trainer))
    finally:
        trainer.model.config._name_or_path = before


def test_tensors_in_a_plain_dataset(judged):
    class Tensors(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, k):
            return {"input_ids": torch.tensor(IDS[k]), "label": torch.tensor(k)}

    assert judged("TS201", Tensors()).status is Status.PASS


@pytest.mark.parametrize(
    ("control", "labels", "says"),
    [
        ("regression", ["late", "lost"] * 4, "a string"),
        ("regression", [[1.0]] * 8, None),
        ("multi_label", [1] * 8, "a int64"),
        ("token_labels", [1] * 8, "a int64"),
        ("token_labels", [[0.5] * 3] * 8, "a list<"),
        ("token_labels", [[1] * 3] * 7 + [[1] * 2], "another number of labels than tokens"),
        ("token_labels", [[1] * 3] * 7 + [[-100] * 3], "no label but -100"),
        ("token_labels", [[1] * 3] * 8, None),
    ],
)
def test_labels_that_do_not_fit_the_task(control, labels, says):
    trainer = CONTROLS[control].build()
    name = Pipeline.from_trainer(trainer).label_column(
        dict.fromkeys(trainer.train_dataset.column_names)
    )
    trainer.train_dataset = Dataset.from_dict({"input_ids": IDS, name: labels})
    trainer.eval_dataset = None
    result = run_one("TS202", Pipeline.from_trainer(trainer))
    if says is None:
        assert result.status is Status.PASS
    else:
        assert any(says in message for message in said(result))
