"""What a repository on GitHub needs: workflow, action, forms, and hooks for pre-commit.

The action's own shell runs here, in a foreign project; only its steps that are GitHub's are not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOREIGN = ROOT / "tests" / "examples" / "foreign"

SCHEMAS = {
    ".github/workflows/ci.yml": "vendor.github-workflows",
    "action.yml": "vendor.github-actions",
    ".readthedocs.yaml": "vendor.readthedocs",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/false_alarm.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/missed.yml": "vendor.github-issue-forms",
}


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCHEMAS)
def test_files_are_what_github_takes(name: str) -> None:
    pytest.importorskip("check_jsonschema", reason="it carries the schemas")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name], name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_forms_and_files_are_all_checked() -> None:
    forms = {
        f".github/ISSUE_TEMPLATE/{p.name}" for p in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()
    }
    flows = {f".github/workflows/{p.name}" for p in (ROOT / ".github/workflows").iterdir()}
    assert forms | flows <= set(SCHEMAS)


def test_the_workflow_runs_every_part_of_ci() -> None:
    matrix = loaded(".github/workflows/ci.yml")["jobs"]["part"]["strategy"]["matrix"]
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith('case "${1-}" in ')]
    parts = line.removeprefix('case "${1-}" in ').partition(")")[0].split(" | ")
    assert sorted(matrix["part"]) == sorted(parts)
    for part in parts:
        assert f"if wanted {part}; then" in text


def step(name: str) -> dict[str, Any]:
    (found,) = [one for one in loaded("action.yml")["runs"]["steps"] if one["name"] == name]
    return dict(found)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the action's steps are for bash")
def test_the_action_judges_a_foreign_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(FOREIGN, project)
    judge = step("Judge")
    assert set(judge["env"]) == {"TARGET", "ARGS", "FOLDER"}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "TARGET": "train.py -- --accumulation '2'",
        "ARGS": "--select loss,TS6 --ignore 'TS504'",
        "FOLDER": str(tmp_path / "reports"),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", judge["run"]],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "output").read_text() == "exit-code=1\n"
    lines = (project / "train.py").read_text(encoding="utf-8").splitlines()
    (line,) = [k for k, text in enumerate(lines, 1) if ".train()" in text]
    where = f"file=project/train.py,line={line}"
    assert f"::error {where},title=TS502 loss.matches_reference fail on train.py::" in done.stdout
    assert "%0Apage: https://" in done.stdout
    assert (tmp_path / "summary.md").read_text().startswith("## ❌ train.py: not sane")
    names = {path.name for path in (tmp_path / "reports").iterdir()}
    assert names == {"report.html", "report.json", "report.sarif"}
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    assert {one["code"] for one in report["results"]} >= {"TS502", "TS601"}
    assert "TS504" not in {one["code"] for one in report["results"]}
    (run,) = json.loads((tmp_path / "reports" / "report.sarif").read_text())["runs"]
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "train.py", "uriBaseId": "%SRCROOT%"}
    assert sorted(path.name for path in project.iterdir()) == ["pyproject.toml", "train.py"]


def test_hooks_call_commands_that_exist() -> None:
    from click.testing import CliRunner

    from trainsanity.cli.main import program

    hooks = loaded(".pre-commit-hooks.yaml")
    assert [hook["id"] for hook in hooks] == ["trainsanity", "trainsanity-data"]
    for hook in hooks:
        name, command, *options = hook["entry"].split()
        assert name == "trainsanity"
        shown = CliRunner().invoke(program, [command, "--help"]).output
        assert all(option in shown for option in options if option.startswith("--"))
