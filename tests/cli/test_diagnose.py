"""``trainsanity diagnose``: streams, options, exit codes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures.incident import TABLE, TRAIN_LOG
from trainsanity.cli.main import program

Call = Callable[..., Result]
Launch = Callable[..., subprocess.CompletedProcess[str]]
Complaint = Callable[..., str]

OPTIONS = ("--num-labels", "280", "--learning-rate", "1e-5", "--warmup-steps", "700")
INITIAL = "loss.initial_is_uninformed"


@pytest.mark.parametrize("path", [TRAIN_LOG, TABLE], ids=["lines", "table"])
def test_the_incident(call: Call, path: Path) -> None:
    result = call("diagnose", str(path), *OPTIONS)
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    for words in (
        "the log shows trouble. Look first at: loss",
        "12.3 x log 280 (5.635)",
        "consistent with a factor of 11 or 12 over a healthy 5.7 to 6.3",
        "that they make 11 or 12 is an inference",
        "max_grad_norm 1, the default, keeps 0.5%",
        "is at 2.84% of the peak 1e-05",
        "little movement is expected yet",
        "trainsanity run YOUR_SCRIPT.py --select TS402,TS501,TS502",
    ):
        assert words in text


def test_json_is_the_reports(call: Call, tmp_path: Path) -> None:
    result = call("diagnose", str(TABLE), *OPTIONS, "--json", "-")
    assert "Look first at: loss" in result.stderr
    document = json.loads(result.stdout)
    assert document["schema"] == 2
    assert document["summary"]["exit_code"] == 1
    assert document["summary"]["acquitted"] == {}
    assert document["facts"]["num_labels"] == 280
    row = next(row for row in document["results"] if row["name"] == INITIAL)
    assert row["factor"] == pytest.approx(12.34, abs=0.01)
    assert call("diagnose", str(TABLE), "--json", "r.json").exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["summary"]["fail"] == 0


def test_stdin() -> None:
    arguments = ["diagnose", "-", *OPTIONS]
    result = CliRunner().invoke(program, arguments, input=TABLE.read_text(), prog_name="x")
    assert result.exit_code == 1
    assert result.stdout.startswith("stdin: the log shows trouble")


@pytest.mark.parametrize(
    ("line", "options", "code"),
    [
        ("{'loss': 5.8}", ["--num-labels", "280"], 0),
        ("{'loss': 69.5}", ["--num-labels", "280"], 1),
        ("{'loss': nan}", [], 1),
        ("{'eval_loss': 5.8}\n{'grad_norm': 3.0, 'loss': 'x'}", ["--max-grad-norm", "0"], 0),
        ("{'loss': 5.8}", ["--num-labels", "none"], 2),
        ("{'loss': 5.8}", ["--num-labels", "0"], 2),
        ("", [], 2),
    ],
)
def test_exit_codes(call: Call, tmp_path: Path, line: str, options: list[str], code: int) -> None:
    (tmp_path / "x.log").write_text(line)
    result = call("diagnose", "x.log", *options)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output


def test_nothing_that_could_be_judged_is_3(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("{'loss': 5.7, 'step': 1}\n{'eval_loss': 5.8, 'step': 2}\n")
    assert call("diagnose", "x.log").exit_code == 0
    (tmp_path / "x.log").write_text("{'eval_loss': 5.8}\n")
    result = call("diagnose", "x.log")
    assert result.exit_code == 3
    assert "x.log: nothing could be judged" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x.log is empty"),
        ('{"log_history": [\n{"loss":', "x.log is JSON that ends in the middle"),
        ("Epoch 1/3\n - loss: 0.5\n", "x.log looks like a log of Keras, which is not read"),
        ("a\0b", "that is a binary file, not a log"),
    ],
    ids=["empty", "truncated", "keras", "binary"],
)
def test_bad_input_is_one_sentence(
    call: Call, complaint: Complaint, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "x.log").write_text(text)
    assert complaint(call("diagnose", "x.log")).startswith(said)


def test_no_such_log(call: Call, complaint: Complaint) -> None:
    assert complaint(call("diagnose", "no.log")) == "there is no file or folder 'no.log'"


def test_it_is_fast_because_it_loads_no_torch(launch: Launch) -> None:
    code = (
        "import atexit, sys\n"
        "from trainsanity.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'}\n"
        "atexit.register(lambda: print('LOADED', heavy & set(sys.modules)))\n"
        "main()\n"
    )
    result = launch("diagnose", str(TABLE), *OPTIONS, python=("-c", code))
    assert result.returncode == 1, result.stderr
    assert result.stdout.endswith("LOADED set()\n")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads it from /proc")
def test_a_long_log_is_streamed(launch: Launch, tmp_path: Path) -> None:
    """20 MB, line by line; larger ones are read in blocks, by Arrow, which is larger itself."""
    line = "{'loss': 5.7, 'grad_norm': 2.5, 'learning_rate': 1e-05, 'step': 0, 'epoch': 1.0}\n"
    with (tmp_path / "long.log").open("w") as stream:
        for _ in range(20_000_000 // (1000 * len(line)) + 1):
            stream.write(line * 1000)
    code = (
        "import re\n"
        "from pathlib import Path\n"
        "from trainsanity.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    print('PEAK', int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)\n"
    )
    result = launch("diagnose", "long.log", python=("-c", code))
    assert "Traceback" not in result.stderr
    assert int(result.stdout.rpartition("PEAK ")[2]) < 64, result.stdout + result.stderr
