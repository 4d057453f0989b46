"""Bad input ends in one sentence, and what pyproject.toml says is used."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

LOSS = "loss.matches_reference"

Call = Callable[..., Result]
Launch = Callable[..., subprocess.CompletedProcess[str]]
Complaint = Callable[..., str]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["no_such_module:factory"], "there is no module 'no_such_module'", id="no-module"
        ),
        pytest.param(
            ["cli_factories:no_such_factory"],
            "module 'cli_factories' has no 'no_such_factory'",
            id="no-factory",
        ),
        pytest.param(
            ["cli_factories:raises"],
            "cli_factories:raises raised ValueError: the weights are (/",
            id="raises",
        ),
        pytest.param(
            ["cli_factories:exits"], "cli_factories:exits raised SystemExit: 0", id="exits"
        ),
        pytest.param(
            ["cli_factories:wants_arguments"], "has to run without arguments", id="arguments"
        ),
        pytest.param(
            ["cli_factories:returns_model"],
            "returned BertForSequenceClassification, not a tr",
            id="no-trainer",
        ),
        pytest.param(["cli_factories:not_a_function"], "is no function", id="no-function"),
        pytest.param(["cli_factories:empty"], "train_dataset is empty", id="empty"),
        pytest.param(["cli_factories:no_train_dataset"], "there is no train_dataset", id="no-data"),
        pytest.param(
            ["cli_factories:no_loss"],
            "BertForSequenceClassification returned no loss for a batch with",
            id="no-loss",
        ),
        pytest.param(
            ["cli_factories:larger_batch"],
            "per_device_train_batch_size is 16 but train_dataset",
            id="small",
        ),
        pytest.param(
            ["cli_factories:no_labels"], "name the column 'label' or 'labels', or", id="unlabelled"
        ),
        pytest.param(
            ["cli_factories:labels_lost"],
            "the collator leaves them out: keep 'labels' of the rows in its batch",
            id="labels lost",
        ),
        pytest.param(
            ["cli_factories:healthy", "--select", "colator"],
            "did you mean 'collator'?",
            id="select",
        ),
        pytest.param(
            ["cli_factories:healthy", "--ignore", "TS999"],
            "no check is called 'TS999'",
            id="ignore",
        ),
        pytest.param(
            ["cli_factories:healthy", "--select", ""],
            "--select names no check",
            id="select-nothing",
        ),
        pytest.param(
            ["cli_factories:healthy", "--select", "TS5", "--ignore", "loss"],
            "leave no check",
            id="nothing-left",
        ),
        pytest.param(
            ["cli_factories:healthy", "--max-cost", "cheap"],
            "Invalid value for '--max-cost'",
            id="cost",
        ),
        pytest.param(["cli_factories:healthy", "--jsn", "x"], "No such option", id="option"),
        pytest.param(["cli_factories:healthy", "--lr", "1"], "No such option '--lr'; the", id="lr"),
        pytest.param(
            ["cli_factories:healthy -- --accum 4", "--lr", "1"],
            "trainsanity run cli_factories:healthy -- --accum 4 --lr ...",
            id="lr-too",
        ),
        pytest.param(
            ["cli_factories:healthy", "--baselin", "x"], "did you mean --baseline?", id="letter"
        ),
        pytest.param(["cli_factories"], "'cli_factories' names no pipeline", id="form"),
        pytest.param(
            ["train.py", "--", "--epochs", "3"], "there is no file 'train.py' below /", id="script"
        ),
        pytest.param([], "no pipeline to judge: give pkg.module:factory", id="no-target"),
    ],
)
def test_bad_input_is_one_sentence(
    call: Call, tmp_path: Path, arguments: list[str], said: str, complaint: Complaint
) -> None:
    # The program's own options have to come before a script's "--".
    result = call("run", "--json", "report.json", *arguments)
    assert said in complaint(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runn", "x.py"], "There is no command 'runn'; did you mean run?"),
        (["x.py", "--lr", "3"], "did you mean trainsanity run x.py --lr 3?"),
        (["shop.train:build"], "did you mean trainsanity run shop.train:build?"),
        (["check", "x.py", "-q"], "There is no command 'check'; did you mean trainsanity run x.py"),
        (["polish"], "There is no command 'polish'; trainsanity --help shows them"),
        (["run", "x"], "nothing and returns a Trainer; trainsanity run x.py judges that file as a"),
        (["run", "./"], "'./' names no pipeline"),
    ],
)
def test_what_people_type_is_answered_with_what_they_mean(
    call: Call, tmp_path: Path, complaint: Complaint, words: list[str], says: str
) -> None:
    (tmp_path / "x.py").write_text("")
    assert says in complaint(call(*words))


def test_bad_input_with_debug_has_the_traceback(call: Call) -> None:
    result = call("run", "cli_factories:raises", "--debug")
    assert result.exit_code == 2
    assert "ValueError: the weights are" in result.stderr
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("trainsanity: error: cli_factories:raises")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no/such/folder.json", "--json no/such/folder.json: it cannot be written (No such file"),
        (".", "that is a directory"),
        ("file/below.json", "--json file/below.json: it cannot be written (Not a directory"),
    ],
    ids=["no-folder", "folder", "below-a-file"],
)
def test_unwritable_json_is_found_out_before_anything_is_built(
    call: Call, tmp_path: Path, path: str, said: str, complaint: Complaint
) -> None:
    (tmp_path / "file").write_text("here before")
    built = importlib.import_module("cli_factories").built
    built.clear()
    assert said in complaint(call("run", "cli_factories:healthy", "--json", path))
    assert built == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_in_a_process_of_its_own_too(tmp_path: Path, complaint: Complaint, launch: Launch) -> None:
    result = launch("run", "cli_factories:empty", "--json", "x.json")
    assert complaint(result) == "train_dataset is empty: pass at least one batch of rows"
    assert list(tmp_path.iterdir()) == []


def test_second_pipeline_that_cannot_be_built_is_told_in_the_json(
    call: Call, tmp_path: Path
) -> None:
    result = call(
        "run", "cli_factories:healthy", "cli_factories:empty", "--select", "dataset",
        "--json", "report.json",
    )  # fmt: skip
    assert result.exit_code == 2
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [report["summary"]["exit_code"] for report in reports] == [0, 2]
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupt(call: Call, tmp_path: Path) -> None:
    result = call("run", "cli_factories:interrupted", "--json", "report.json")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "trainsanity: interrupted; no JSON was written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), SystemExit(0)])
def test_the_unexpected_is_a_sentence_too(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, complaint: Complaint
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("trainsanity.cli.judging.run_checks", broken)
    said = complaint(call("run", "cli_factories:healthy"), 3)
    kind = type(error).__name__
    assert said.startswith(f"unexpected {kind}: {' '.join(str(error).split())}; run again with")
    with_debug = call("run", "cli_factories:healthy", "--debug")
    assert with_debug.exit_code == 3
    assert "Traceback" in with_debug.stderr


# --- pyproject.toml ------------------------------------------------------------------------------


def configure(folder: Path, pipelines: list[str], **expected: str) -> None:
    lines = ["[tool.trainsanity]", f"pipelines = {json.dumps(pipelines)}"]
    lines += ["[tool.trainsanity.expected_failures]"]
    lines += [f'"{name.replace("__", ".")}" = "{reason}"' for name, reason in expected.items()]
    (folder / "pyproject.toml").write_text("\n".join(lines))


def test_configured_pipelines_need_no_argument(call: Call, tmp_path: Path) -> None:
    configure(tmp_path, ["cli_factories:healthy", "cli_factories:loud"])
    result = call("run", "--select", LOSS)
    assert result.exit_code == 1
    assert "cli_factories:healthy: sane" in result.stdout
    assert "cli_factories:loud: not sane" in result.stdout


@pytest.mark.parametrize("targets", [[], ["cli_factories:loud"]])
def test_accepted_failure(call: Call, tmp_path: Path, targets: list[str]) -> None:
    configure(tmp_path, ["cli_factories:loud"], loss__matches_reference="known, see #7")
    result = call("run", *targets, "--select", "loss,gradient", "--json", "r.json")
    assert result.exit_code == 0
    assert "sane as far as judged but for what is accepted" in result.stdout
    assert "(accepted: known, see #7)" in result.stdout
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert (summary["xfail"], summary["fail"]) == (1, 0)


def test_accepted_failure_that_passes_is_a_failure(call: Call, tmp_path: Path) -> None:
    configure(tmp_path, ["cli_factories:healthy"], loss__matches_reference="known, see #7")
    result = call("run", "--select", "loss")
    assert result.exit_code == 1
    assert "delete its entry in expected_failures" in result.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loss__matches_refrence", "no check is called 'loss.matches_refrence'; did you mean"),
        ("TS502", f"name the check in full, {LOSS!r}, not by 'TS502'"),
    ],
    ids=["unknown", "code"],
)
def test_expected_failure_that_names_no_check(
    call: Call, tmp_path: Path, name: str, said: str, complaint: Complaint
) -> None:
    built = importlib.import_module("cli_factories").built
    built.clear()
    configure(tmp_path, ["cli_factories:healthy"], **{name: "known"})
    sentence = complaint(call("run"))
    assert sentence.startswith("expected_failures in pyproject.toml: ")
    assert said in sentence
    assert built == []


@pytest.mark.parametrize("value", ['"asistant"', "3", '["all"]'])
def test_a_declaration_of_an_unknown_value(
    call: Call, tmp_path: Path, value: str, complaint: Complaint
) -> None:
    lines = f'[tool.trainsanity]\npipelines = ["cli_factories:healthy"]\nsupervise = {value}\n'
    (tmp_path / "pyproject.toml").write_text(lines)
    sentence = complaint(call("run"))
    assert "pyproject.toml: supervise is " in sentence
    assert sentence.endswith("it may be 'assistant', 'completion', 'all'")
