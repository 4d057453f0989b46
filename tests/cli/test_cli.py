"""The command line: parsing, streams, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from trainsanity import __version__
from trainsanity.engine.registry import registry
from trainsanity.types import Cost

LOSS = "loss.matches_reference"
DATASET = [check.code for check in registry().all() if check.stage == "dataset"]
STATIC_LOSS = [
    check.code for check in registry().all() if (check.stage, check.cost) == ("loss", Cost.STATIC)
]

Call = Callable[..., Result]
Launch = Callable[..., subprocess.CompletedProcess[str]]
Complaint = Callable[..., str]


# --- list, explain, help -------------------------------------------------------------------------


def test_list_has_a_line_for_every_check(call: Call) -> None:
    result = call("list")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    checks = registry().all()
    assert list(rows) == [check.code for check in checks]
    for check in checks:
        told = rows[check.code].split()
        assert told[1:4] == [check.name, check.stage, check.cost.name]
        assert rows[check.code].endswith(check.title.replace("``", "`"))


def test_list_as_json(call: Call, tmp_path: Path) -> None:
    rows = json.loads(call("list", "--json", "-").stdout)
    assert rows[0].keys() == {"code", "name", "stage", "cost", "judges", "title"}
    assert call("list", "--json", "checks.json").stdout == ""
    assert json.loads((tmp_path / "checks.json").read_text()) == rows


@pytest.mark.parametrize("word", ["TS502", LOSS], ids=["code", "name"])
def test_explain_prints_the_page(call: Call, word: str) -> None:
    result = call("explain", word)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"TS502 {LOSS} | stage loss | cost STEP")
    assert registry().get("TS502").page in result.stdout


def test_list_of_some(call: Call) -> None:
    lines = call("list", "speed", "TS8").stdout.splitlines()
    assert {line.split()[2] for line in lines} == {"speed", "schedule"}
    assert len(lines) == sum(one.stage in ("speed", "schedule") for one in registry().all())


def test_explain_several(call: Call) -> None:
    out = call("explain", "TS101", "TS501").stdout
    for code in ("TS101", "TS501"):
        assert registry().get(code).page in out


@pytest.mark.parametrize("word", ["loss", "TS5", "loss.*"])
def test_explain_of_a_stage_lists_what_can_be_explained(call: Call, word: str) -> None:
    stage = [one for one in registry().all() if one.stage == "loss"]
    *lines, last = call("explain", word).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [one.code for one in stage]
    assert all(line.endswith(one.title) for line, one in zip(lines, stage, strict=True))
    assert last == f"trainsanity explain {stage[0].code} prints its page; --pages all of these"
    pages = call("explain", word, "--pages").stdout
    assert all(one.page in pages for one in stage)


@pytest.mark.parametrize("command", ["list", "explain"])
def test_a_word_that_is_no_name_is_looked_for_in_the_pages(call: Call, command: str) -> None:
    out = call(command, "LoRA").stdout
    codes = [line.split()[0] for line in out.splitlines() if line.startswith("TS")]
    assert codes
    assert set(codes) < {one.code for one in registry().all()}
    for code in codes:
        assert "lora" in registry().get(code).page.lower()


def test_a_word_that_selects_nothing_says_where_it_is_spoken_of(
    call: Call, complaint: Complaint
) -> None:
    said = complaint(call("run", "nothing:here", "--select", "accumulation"))
    assert said == (
        "no check is called 'accumulation'; 'trainsanity list accumulation' shows those that "
        "speak of it."
    )


def test_explain_unknown_names_the_nearest(call: Call, complaint: Complaint) -> None:
    said = complaint(call("explain", "loss.matches_refernce"))
    assert said == f"no check is called 'loss.matches_refernce'; did you mean {LOSS!r}?"
    assert "'trainsanity list' shows them all" in complaint(call("explain", "qwxz"))


def test_version(call: Call) -> None:
    assert call("--version").stdout == f"trainsanity, version {__version__}\n"


def test_without_a_command_it_shows_help_and_fails(call: Call) -> None:
    result = call()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "--json", "-"],
        ["explain", "TS502"],
        ["--help"],
        ["run", "--help"],
        ["--version"],
        ["run", "train.py"],
        ["run", "a:b", "--select", "nonsense"],
    ],
    # Not the words themselves: `pytest -k TS5` is for that check's own tests.
    ids=["list", "list-json", "explain", "help", "run-help", "version", "script", "typo"],
)
def test_needs_no_torch(arguments: list[str], launch: Launch) -> None:
    code = (
        "import atexit, sys\n"
        "from trainsanity.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'}\n"
        "atexit.register(lambda: print('LOADED', heavy & set(sys.modules)))\n"
        "main()\n"
    )
    result = launch(*arguments, python=("-c", code))
    assert result.stdout.endswith("LOADED set()\n"), result.stdout + result.stderr
    assert "Traceback" not in result.stderr


# --- run -----------------------------------------------------------------------------------------


def test_healthy(call: Call) -> None:
    healthy = ("cli_factories:healthy", "--select", "loss")
    result = call("run", *healthy)
    assert result.exit_code == 0, result.stdout + result.stderr
    document = json.loads(call("run", *healthy, "--json", "-").stdout)
    statuses = [row["status"] for row in document["results"]]
    # Skipped is what a classifier without padding, accumulation or a loss of its own has not.
    assert set(statuses) == {"pass", "skip"}
    by_code = {row["code"]: row["status"] for row in document["results"]}
    assert {by_code[code] for code in ("TS501", "TS502", "TS503", "TS504")} == {"pass"}
    assert len(statuses) == len(registry().select(["loss"]))
    some = f"{statuses.count('pass')} of {len(registry().all())} checks ran and passed"
    assert result.stdout.startswith(f"cli_factories:healthy: sane as far as judged: {some}\n")


def test_failure(call: Call, tmp_path: Path) -> None:
    result = call("run", "cli_factories:loud", "--select", "loss,gradient", "--json", "r.json")
    assert result.exit_code == 1
    assert "cli_factories:loud: not sane. First broken stage: loss" in result.stdout
    assert "trainsanity run cli_factories:loud --select TS502" in result.stdout
    document = json.loads((tmp_path / "r.json").read_text())
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]
    assert document["pipeline"] == "cli_factories:loud"
    assert document["summary"]["exit_code"] == 1
    loss = next(row for row in document["results"] if row["code"] == "TS502")
    assert loss["status"] == "fail"
    assert loss["factor"] == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (["--select", "TS501,TS2"], [*DATASET, "TS501"]),
        (["--select", "TS501", "--select", " dataset "], [*DATASET, "TS501"]),
        (["--select", "loss,TS201", "--max-cost", "STATIC"], ["TS201", *STATIC_LOSS]),
        (["--select", "TS501,TS502", "--max-cost", "forward"], ["TS501"]),
        (["--select", "TS501,TS502,dataset", "--ignore", f"TS2,{LOSS}"], ["TS501"]),
    ],
)
def test_selection(call: Call, options: list[str], codes: list[str]) -> None:
    result = call("run", "cli_factories:healthy", *options, "--json", "-")
    document = json.loads(result.stdout)
    assert [row["code"] for row in document["results"]] == codes
    assert document["summary"]["of"] == len(registry().all())


def test_strict_does_not_let_a_skip_pass(call: Call) -> None:
    # Without a tokenizer there is no PAD of its own to judge.
    arguments = ("run", "cli_factories:healthy", "--select", "TS102,TS201")
    assert call(*arguments).exit_code == 0
    strict = call(*arguments, "--strict")
    assert strict.exit_code == 3
    assert ": incomplete: 1 of " in strict.stdout
    assert call("run", "cli_factories:healthy", "--select", "TS102").exit_code == 3


def test_several_pipelines_and_the_worst_code(call: Call) -> None:
    targets = ("cli_factories:loud", "cli_factories:healthy")
    result = call("run", *targets, "--select", LOSS, "--json", "-")
    assert result.exit_code == 1
    documents = json.loads(result.stdout)
    assert [document["pipeline"] for document in documents] == list(targets)
    assert [document["summary"]["exit_code"] for document in documents] == [1, 0]


def test_a_screen_all_of_it_or_a_line(call: Call) -> None:
    targets = ("cli_factories:loud", "cli_factories:healthy", "--select", f"{LOSS},TS201")
    screen = call("run", *targets).stdout
    assert screen.splitlines()[-1] == "1 of 2 not sane: cli_factories:loud"
    assert "All selected checks" not in screen
    verdict = "cli_factories:loud: not sane. First broken stage: loss"
    assert screen.splitlines().count(verdict) == 2
    line, other, total = call("run", *targets, "-q").stdout.splitlines()
    assert (line, total) == (verdict, "1 of 2 not sane: cli_factories:loud")
    assert other.startswith("cli_factories:healthy: sane as far as judged: ")
    whole = call("run", *targets, "-v").stdout
    assert whole.count("All selected checks") == 2
    both = call("run", *targets, "-v", "-q")
    assert both.exit_code == 2
    assert "--verbose and --quiet contradict each other" in both.stderr


def test_json_on_stdout_is_json_alone(launch: Launch) -> None:
    result = launch("run", "cli_factories:noisy", "--select", "TS201", "--json", "-")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["summary"]["ran"] == 1
    for said in (
        "print from the factory",
        "write to the real stdout",
        "write to the descriptor",
        "write of a child process",
        "cli_factories:noisy: sane as far as judged",
    ):
        assert said in result.stderr


def test_prints_go_to_stderr_where_stdout_is_not_the_descriptor(call: Call) -> None:
    result = call("run", "cli_factories:noisy", "--select", "TS201", "--json", "-")
    assert json.loads(result.stdout)["summary"]["ran"] == 1
    assert "print from the factory" in result.stderr


def test_prints_of_the_pipeline_stay_out_of_the_text_report(tmp_path: Path, launch: Launch) -> None:
    result = launch("run", "cli_factories:noisy", "--select", "TS201", "--json", "r.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("cli_factories:noisy: sane")
    assert "write" not in result.stdout
    # The factory left the directory; the file is where it was asked for.
    assert json.loads((tmp_path / "r.json").read_text())["pipeline"] == "cli_factories:noisy"


def test_json_replaces_a_file_and_keeps_its_mode_but_never_a_device(
    call: Call, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    path.chmod(0o640)
    arguments = ("run", "cli_factories:healthy", "--select", "TS201", "--json")
    assert call(*arguments, "r.json").exit_code == 0
    assert json.loads(path.read_text())["schema"] == 2
    assert path.stat().st_mode & 0o777 == 0o640
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert call(*arguments, "pipe").exit_code == 0
        assert json.loads(os.read(reader, 1_000_000))["schema"] == 2
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_progress_and_colour_only_for_a_terminal(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "cli_factories:healthy", "--select", "TS201")
    piped = call(*arguments)
    assert "TS201" not in piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = call(*arguments)
    assert "TS201 dataset.labels_in_range (static)" in terminal.stderr
    assert "\x1b[" in terminal.stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in call(*arguments).stdout
