"""A project that has failures switches the gate on: --baseline, --write-expected, --prove-fix."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result

from trainsanity.report.json import schema

LOSS = "loss.matches_reference"
Call = Callable[..., Result]
Complaint = Callable[..., str]

LOUD = ("run", "cli_factories:loud", "--select", LOSS)


def test_what_the_baseline_has_is_known(call: Call, tmp_path: Path) -> None:
    assert call(*LOUD, "--json", "ref.json").exit_code == 1
    again = call(*LOUD, "--baseline", "ref.json", "--json", "now.json")
    assert again.exit_code == 0
    assert "known: ref.json has it" in again.stdout
    (row,) = json.loads((tmp_path / "now.json").read_text())["results"]
    assert row["status"] == "xfail"
    # Another pipeline, or another finding of the same check, is new.
    reference = json.loads((tmp_path / "ref.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**reference, "pipeline": "m:other"}))
    assert call(*LOUD, "--baseline", "other.json").exit_code == 1
    reference["results"][0]["findings"][0]["headline"] = "something else is wrong"
    (tmp_path / "else.json").write_text(json.dumps([reference]))
    assert call(*LOUD, "--baseline", "else.json").exit_code == 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pipeline": "p", "results": [{"name": "x"}]}'])
def test_a_baseline_that_is_none(
    call: Call, complaint: Complaint, tmp_path: Path, text: str
) -> None:
    (tmp_path / "ref.json").write_text(text)
    said = complaint(call(*LOUD, "--baseline", "ref.json"))
    assert said.startswith("--baseline ref.json: ")
    assert "give a file that `trainsanity run --json FILE` wrote" in said


def test_expected_failures_are_written_below_what_is_there(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    own = "# ours\n[tool.trainsanity]\ntimeout   =  60 # long\n"
    path.write_text(own)
    first = call(*LOUD, "--write-expected")
    assert first.exit_code == 1
    assert "expected_failures: 1 written to" in first.stdout
    assert path.read_text().startswith(own)
    table = tomllib.loads(path.read_text())["tool"]["trainsanity"]["expected_failures"]
    reason = table["cli_factories:loud"][LOSS]
    assert reason.startswith("reason to be written: the Trainer logs a loss of ")
    again = call(*LOUD, "--write-expected")
    assert again.exit_code == 0
    assert "nothing was written" in again.stdout
    assert path.read_text().count(LOSS) == 1


@pytest.mark.parametrize("text", [None, "[tool.trainsanity]\nexpected_failures = {}\n"])
def test_where_no_line_can_be_added_the_table_is_told(
    call: Call, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "pyproject.toml"
    if text is not None:
        path.write_text(text)
    said = call(*LOUD, "--write-expected").stdout
    assert '[tool.trainsanity.expected_failures."cli_factories:loud"]\n' in said
    assert f'"{LOSS}" = "reason to be written: ' in said
    assert (path.read_text() if path.exists() else None) == text


def test_a_proof_stands_in_every_report(call: Call, tmp_path: Path) -> None:
    files = ("--json", "r.json", "--github-summary", "r.md", "--github-annotations")
    result = call(*LOUD, "--prove-fix", *files)
    assert result.exit_code == 1
    assert "proof     proved: with loss / 3 before backward(), and in the log " in result.stdout
    assert "proof: proved: with loss / 3 before backward(), and" in result.stdout  # annotated
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, schema())
    proof = document["results"][0]["findings"][0]["proof"]
    assert (proof["status"], proof["green"], proof["red"]) == ("proved", ["TS502"], [])
    assert "| proof | proved: with loss / 3 before backward" in (tmp_path / "r.md").read_text()
    assert "proof" in call(*LOUD, "--prove-fix", "-v").stdout


def told(call: Call, tmp_path: Path, *options: str) -> dict[str, Any] | None:
    call(*LOUD, "--json", "r.json", *options)
    (row,) = json.loads((tmp_path / "r.json").read_text())["results"]
    proof: dict[str, Any] | None = row["findings"][0].get("proof")
    return proof


def test_what_costs_little_is_tried_unless_the_call_is_to_be_short(
    call: Call, complaint: Complaint, tmp_path: Path
) -> None:
    proof = told(call, tmp_path)
    assert proof is not None
    assert (proof["status"], proof["green"]) == ("proved", ["TS502"])
    assert told(call, tmp_path, "--quick", "--prove-fix") == proof
    for option in ("--no-prove-fix", "--quick", "--fail-fast"):
        assert told(call, tmp_path, option) is None
    said = complaint(call(*LOUD, "--no-prove-fix", "--patch", "fix.patch"))
    assert said.startswith("--patch and --no-prove-fix contradict each other")


def test_known_failures_are_not_tried(call: Call, tmp_path: Path) -> None:
    call(*LOUD, "--no-prove-fix", "--json", "ref.json")
    assert told(call, tmp_path, "--baseline", "ref.json") is None
