"""``diagnose`` under input that is odd on purpose: each ends in one sentence and its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]

STATE = '{"log_history": [{"loss": 5.7, "step": 1}]}'
CONFIG = '{"architectures":["BertForSequenceClassification"],"id2label":{"0":"a","1":"b"}%s}'


@pytest.fixture
def log(tmp_path: Path) -> str:
    lines = [
        {"loss": round(5.7 - 0.01 * i, 4), "grad_norm": 2.0, "learning_rate": 1e-5 * (1 - i / 50),
         "step": i + 1}
        for i in range(40)
    ]  # fmt: skip
    (tmp_path / "x.log").write_text("\n".join(map(json.dumps, lines)))
    return "x.log"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--learning-rate", "nan"], "'nan' is no number"),
        (["--warmup-steps", "1e400"], "inf is not in the range"),
        (["--warmup-steps", "nan", "--learning-rate", "1e-5"], "'nan' is no number"),
        (["--num-labels", f"1{'0' * 400}"], "is not in the range"),
        (["--lr", "1e-5"], "--learning-rate"),
        (["--accum", "4"], "--gradient-accumulation-steps"),
        (["--batch-size", "4"], "--per-device-train-batch-size"),
        (["--json", "x.log"], "that is the log itself"),
    ],
)
def test_options_that_are_none(call: Call, log: str, options: list[str], says: str) -> None:
    result = call("diagnose", log, *options, "--max-steps", "50")
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cross_entropy_below_0_is_found(call: Call, tmp_path: Path, log: str) -> None:
    path = tmp_path / log
    path.write_text(path.read_text().replace('"loss": ', '"loss": -'))
    result = call("diagnose", log, "--num-labels", "280")
    assert result.exit_code == 1
    assert "a cross entropy is never below 0" in result.stdout


@pytest.mark.parametrize(
    ("files", "target"),
    [
        ({"ck/checkpoint-²/trainer_state.json": STATE}, "ck"),
        ({"trainer_state.json": STATE, "config.json": "[" * 100_000}, "trainer_state.json"),
        (
            {
                "trainer_state.json": STATE,
                "config.json": CONFIG % f',"hidden_size":1{"0" * 400}',
            },
            "trainer_state.json",
        ),
        ({"big.json": '{"max_steps": ' + "9" * 5000 + "," + STATE[1:]}, "big.json"),
    ],
    ids=["superscript", "deep", "huge", "long"],
)
def test_files_that_are_odd(call: Call, tmp_path: Path, files: dict[str, str], target: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    result = call("diagnose", target)
    assert result.exit_code in (0, 1), result.stderr
    assert "of 9 questions could be judged" in result.stdout


def test_a_pickle_is_not_opened(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(STATE)
    (folder / "training_args.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    refused = call("diagnose", "checkpoint-5/training_args.bin")
    assert refused.exit_code == 2
    assert "is a pickle, which is not opened" in refused.stderr
    read = call("diagnose", ".")
    assert "training_args.bin is a pickle and is not opened" in read.stdout
    assert not (tmp_path / "owned").exists()


def test_what_trainer_logs_of_its_settings_is_known(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(
        "[INFO|trainer.py:2519] >>   Instantaneous batch size per device = 8\n"
        "[INFO|trainer.py:2522] >>   Total train batch size (w. parallel, distributed & "
        "accumulation) = 64\n"
        "[INFO|trainer.py:2523] >>   Gradient Accumulation steps = 4\n"
        "[INFO|trainer.py:2524] >>   Total optimization steps = 1,000\n"
        "{'loss': 5.481, 'step': 100}\n{'eval_loss': 1.45, 'step': 100}\n"
        "{'loss': 5.3, 'step': 200}\n{'eval_loss': 1.40, 'step': 200}\n"
    )
    result = call("diagnose", "run.log")
    assert result.exit_code == 1
    assert "gradient_accumulation_steps 4, world_size 2, max_steps 1000" in " ".join(
        result.stdout.split()
    )
    assert "the training loss is 3.78 x the evaluation's" in result.stdout
