"""Warnings and what was not judged, from the command line: words, files, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from trainsanity import Check, Cost, Finding, Measured, Severity, Skip
from trainsanity.engine.registry import registry
from trainsanity.pipeline import Pipeline
from trainsanity.types import Judges

Call = Callable[..., Result]
Complaint = Callable[..., str]

RUN = ("run", "cli_factories:healthy", "--select")


def odd(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Every pipeline is even."""
    yield Measured("the pipeline is 3", 3, 2)
    yield Finding("3 is odd", 3, 2, fix="add 1", severity=Severity.WARNING)


def unknown(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Every step has a reference."""
    raise Skip("the task has no reference")
    yield


FINE = Measured("slope 1", 1, 1)
CHECKS = (
    Check("ACME301", "collator.even", odd),
    Check("ACME501", "loss.reference", unknown, Cost.STEP, judges=Judges.LOSS),
    Check("ACME601", "gradient.reference", unknown, Cost.STEP, judges=Judges.GRADIENT),
)


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in CHECKS:
        monkeypatch.setitem(registry()._checks, check.name, check)


def test_a_warning_is_shown_and_exits_with_0(call: Call, tmp_path: Path) -> None:
    files = ("--json", "r.json", "--github-summary", "r.md", "--github-annotations")
    result = call(*RUN, "ACME301,TS201", *files)
    assert result.exit_code == 0, result.output
    assert "sane as far as judged, 1 warning: 2 of" in result.stdout
    assert "\nACME301 collator.even  warning\n  3 is odd\n" in result.stdout
    assert "::warning title=ACME301 collator.even warning on" in result.stdout
    assert (tmp_path / "r.md").read_text().startswith("## ⚠️ ")
    document = json.loads((tmp_path / "r.json").read_text())
    assert (document["summary"]["warning"], document["summary"]["exit_code"]) == (1, 0)
    (row,) = [row for row in document["results"] if row["code"] == "ACME301"]
    assert (row["status"], row["measured"]) == ("warning", "the pipeline is 3")
    assert [(f["severity"], f["fix"]) for f in row["findings"]] == [("warning", "add 1")]


@pytest.mark.parametrize(
    ("options", "setting", "code"),
    [
        (["--warnings-as-errors"], None, 1),
        (["--strict"], None, 1),
        ([], True, 1),
        ([], False, 0),
        (["--no-warnings-as-errors"], True, 0),
        (["--no-warnings-as-errors", "--strict"], True, 1),
    ],
)
def test_warnings_count_as_failures_where_the_user_says_so(
    call: Call, tmp_path: Path, options: list[str], setting: bool | None, code: int
) -> None:
    if setting is not None:
        text = f"[tool.trainsanity]\nwarnings_as_errors = {str(setting).lower()}\n"
        (tmp_path / "pyproject.toml").write_text(text)
    result = call(*RUN, "ACME301", "--json", "r.json", "--github-annotations", *options)
    assert result.exit_code == code
    assert json.loads((tmp_path / "r.json").read_text())["summary"]["exit_code"] == code
    assert ("not sane: 1 warning, and warnings count as failures" in result.stdout) is bool(code)
    assert ("::error title=ACME301" in result.stdout) is bool(code)


def test_warnings_as_errors_is_true_or_false(
    call: Call, tmp_path: Path, complaint: Complaint
) -> None:
    (tmp_path / "pyproject.toml").write_text("tool.trainsanity.warnings_as_errors = 'yes'")
    said = complaint(call(*RUN, "ACME301"))
    assert said.endswith("pyproject.toml: warnings_as_errors must be true or false")


def test_a_misspelt_setting_is_named(call: Call, tmp_path: Path, complaint: Complaint) -> None:
    (tmp_path / "pyproject.toml").write_text("tool.trainsanity.warning_as_errors = true")
    said = complaint(call(*RUN, "ACME301"))
    assert said.endswith("has no 'warning_as_errors'; did you mean 'warnings_as_errors'?")


def test_an_accepted_warning_is_green_and_one_that_is_gone_is_red(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.trainsanity]\nwarnings_as_errors = true\n"
        '[tool.trainsanity.expected_failures]\n"collator.even" = "known, see #7"\n'
        '"dataset.labels_in_range" = "known, see #8"\n'
    )
    assert call(*RUN, "ACME301").exit_code == 0
    gone = call(*RUN, "ACME301,TS201")
    assert gone.exit_code == 1
    assert "TS201 dataset.labels_in_range  passes, though it is expected to fail" in gone.stdout


def test_a_step_that_no_check_judged_is_incomplete(call: Call, tmp_path: Path) -> None:
    result = call(*RUN, "ACME5,ACME6,TS201", "--json", "r.json")
    assert result.exit_code == 3
    assert result.stdout.startswith(
        "cli_factories:healthy: incomplete: neither loss nor gradient was compared with a computed "
        "value: the task has no reference\n"
    )
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert (summary["not_judged"], summary["exit_code"]) == (["loss", "gradient"], 3)


@pytest.mark.parametrize(
    "options",
    [["collator,TS201"], ["TS201,ACME5,ACME6", "--max-cost", "FORWARD"], ["TS201"]],
    ids=["stage", "max-cost", "one"],
)
def test_a_call_that_asks_for_less_than_a_step_is_complete(call: Call, options: list[str]) -> None:
    result = call(*RUN, *options)
    assert result.exit_code == 0, result.output
    assert ": sane as far as judged" in result.stdout


def test_one_verdict_is_enough(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        registry()._checks, "gradient.reference", replace(CHECKS[2], fn=lambda pipeline: [FINE])
    )
    assert call(*RUN, "ACME5,ACME6").exit_code == 0


def test_list_names_what_a_check_judges_and_explain_too(call: Call) -> None:
    rows = {row["code"]: row for row in json.loads(call("list", "--json", "-").stdout)}
    assert [rows[code]["judges"] for code in ("ACME501", "ACME601", "TS201")] == [
        "loss",
        "gradient",
        None,
    ]
    assert "cost STEP | judges the loss" in call("explain", "ACME501").stdout
