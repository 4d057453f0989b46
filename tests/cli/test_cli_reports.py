"""The files that `trainsanity run` writes besides: the page, GitHub's summary and annotations."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

from trainsanity.report.json import schema

LOSS = "loss.matches_reference"
LOUD = ("run", "cli_factories:loud", "--select", LOSS)

Call = Callable[..., Result]
Launch = Callable[..., subprocess.CompletedProcess[str]]
Complaint = Callable[..., str]


def test_html_of_several_pipelines_is_one_page(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs trainsanity[html]")
    result = call(*LOUD, "cli_factories:healthy", "--html", "report.html")
    assert result.exit_code == 1, result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "cli_factories:loud" in page
    assert "cli_factories:healthy" in page
    # What the check looked at is drawn, the rest says why not.
    assert "&#39;padding&#39; was not measured: no check that ran asked for it" in page


def test_every_face_at_once(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs trainsanity[html]")
    files = ("--html", "r.html", "--github-summary", "r.md", "--json", "-")
    result = call(*LOUD, *files, "--github-annotations")
    assert json.loads(result.stdout)["summary"]["exit_code"] == 1
    assert f"::error title=TS502 {LOSS} fail on cli_factories%3Aloud::" in result.stderr
    assert (tmp_path / "r.md").read_text().startswith("## ❌ cli\\_factories:loud: not sane")
    assert "cli_factories:loud" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_sarif_of_several_pipelines_is_one_file(call: Call, tmp_path: Path) -> None:
    result = call(*LOUD, "cli_factories:healthy", "--sarif", "report.sarif")
    assert result.exit_code == 1, result.stderr
    (run,) = json.loads((tmp_path / "report.sarif").read_text(encoding="utf-8"))["runs"]
    (found,) = run["results"]
    assert (found["ruleId"], found["properties"]["pipeline"]) == ("TS502", "cli_factories:loud")
    # The factory is not below the working directory: its file is named in full.
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("/cli_factories.py")
    assert "uriBaseId" not in place["artifactLocation"]


@pytest.mark.parametrize("name", ["", "-", "no/such/folder/r.sarif"])
def test_sarif_has_to_be_a_file(call: Call, name: str) -> None:
    result = call(*LOUD, "--sarif", name)
    assert result.exit_code == 2
    assert "--sarif" in result.stderr


def test_summary_is_appended(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("# an earlier step\n")
    call(*LOUD, "--github-summary", "summary.md")
    assert path.read_text().startswith("# an earlier step\n## ❌")


@pytest.mark.parametrize(
    ("environment", "options", "told"),
    [
        (None, [], False),
        ("true", [], True),
        ("true", ["--no-github-annotations"], False),
        (None, ["--github-annotations"], True),
    ],
)
def test_annotations_are_for_github(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    options: list[str],
    told: bool,
) -> None:
    if environment:
        monkeypatch.setenv("GITHUB_ACTIONS", environment)
    assert ("\n::error title=TS502" in call(*LOUD, *options).stdout) is told


def test_accepted_and_gone_in_the_files(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs trainsanity[html]")
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.trainsanity.expected_failures]\n"{LOSS}" = "known, see #7"\n'
    )
    files = ("--html", "r.html", "--github-summary", "r.md", "--github-annotations")
    accepted = call(*LOUD, *files)
    assert accepted.exit_code == 0
    assert f"::notice title=TS502 {LOSS} xfail" in accepted.stdout
    assert "known, see \\#7" in (tmp_path / "r.md").read_text()
    assert "<strong>accepted:</strong> known, see #7" in (tmp_path / "r.html").read_text()
    gone = call("run", "cli_factories:healthy", "--select", LOSS, *files)
    assert gone.exit_code == 1
    assert f"::error title=TS502 {LOSS} xpass" in gone.stdout
    assert "delete its entry in expected\\_failures" in (tmp_path / "r.md").read_text()
    assert "delete the entry in expected_failures" in (tmp_path / "r.html").read_text()


UNWRITABLE = {
    "no/such/r": "it cannot be written (No such file or directory)",
    ".": "that is a directory, give a file",
    "-": "give the name of a file",
    "": "give the name of a file",
}


@pytest.mark.parametrize("option", ["--html", "--github-summary"])
@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_file_that_cannot_be_written_is_found_out_before_anything_is_built(
    call: Call, tmp_path: Path, complaint: Complaint, option: str, name: str
) -> None:
    if option == "--html":
        pytest.importorskip("matplotlib", reason="needs trainsanity[html]")
    built = importlib.import_module("cli_factories").built
    built.clear()
    said = complaint(call(*LOUD, option, name))
    assert said == f"{option} {name}".rstrip() + f": {UNWRITABLE[name]}"
    assert built == []
    assert list(tmp_path.iterdir()) == []


def test_the_summary_of_an_earlier_step_stays_if_this_one_comes_to_nothing(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "s.md").write_text("earlier\n")
    assert call("run", "cli_factories:empty", "--github-summary", "s.md").exit_code == 2
    assert (tmp_path / "s.md").read_text() == "earlier\n"


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_without_the_extra_html_is_one_sentence(
    call: Call, tmp_path: Path, complaint: Complaint, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # What Python itself does where a module may not be imported.
    monkeypatch.setitem(sys.modules, name, None)
    said = complaint(call(*LOUD, "--html", "r.html"))
    assert said == f"--html needs {name}: pip install 'trainsanity[html]'"
    assert list(tmp_path.iterdir()) == []


def test_progress_says_what_is_measured_and_for_which_check(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    told = call("run", "cli_factories:healthy", "--select", "model.logits_finite").stderr
    assert "TS401 model.logits_finite (forward): Run the micro-batches through the model" in told


def test_the_words_of_html_load_nothing_heavy(launch: Launch) -> None:
    code = (
        "import atexit, sys\n"
        "from trainsanity.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib', 'jinja2'}\n"
        "atexit.register(lambda: print('LOADED', heavy & set(sys.modules)))\n"
        "main()\n"
    )
    for arguments in (["run", "--help"], ["explain", "--all"], ["run", "a:b", "--html", "/"]):
        result = launch(*arguments, python=("-c", code))
        assert result.stdout.endswith("LOADED set()\n"), result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_one_that_cannot_be_judged_is_told_and_the_others_go_on(call: Call, tmp_path: Path) -> None:
    targets = ("cli_factories:loud", "cli_factories:raises", "cli_factories:healthy")
    options = ("--json", "r.json", "--html", "r.html", "--github-summary", "r.md")
    result = call("run", *targets, "--select", "TS201", *options, "--github-annotations")
    assert result.exit_code == 2
    documents = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(documents, schema())
    assert [one["pipeline"] for one in documents] == list(targets)
    assert [one["summary"]["exit_code"] for one in documents] == [0, 2, 0]
    why = "raised ValueError: the weights are"
    assert [why in (one["unjudged"] or "") for one in documents] == [False, True, False]
    assert f"cli_factories:raises: not judged: cli_factories:raises {why}" in result.stdout
    assert "::error title=cli_factories%3Araises was not judged::" in result.stdout
    assert why in (tmp_path / "r.html").read_text()
    assert f"cli\\_factories:raises {why}" in (tmp_path / "r.md").read_text()


def test_a_report_names_trainer_and_objective(call: Call, tmp_path: Path) -> None:
    result = call("run", "cli_factories:healthy", "--select", "loss", "--json", "r.json",
                  "--html", "r.html")  # fmt: skip
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["facts"]["trainer"] == "Trainer"
    known = document["objective"]
    assert known["name"] == "single_label_classification"
    assert known["recognised"] == "recognised by its model, BertForSequenceClassification"
    assert "loss as computed in TS501, TS502" in known["confirmed"]
    short = f"{known['name']}; {known['recognised']}"
    assert f"Objective: {short}. " in " ".join(result.stdout.split())
    assert f"{short}; {known['confirmed']}" in (tmp_path / "r.html").read_text()
