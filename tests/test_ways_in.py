"""What other tools are given: the hooks of pre-commit, and what -k asks here."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from trainsanity.cli.main import program

pytestmark = pytest.mark.long

HOOKS = Path(__file__).parent.parent / ".pre-commit-hooks.yaml"


@pytest.mark.parametrize("hook", yaml.safe_load(HOOKS.read_text()), ids=lambda hook: hook["id"])
def test_the_entry_of_a_hook_is_a_call(
    hook: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(hook["entry"])
    assert name == "trainsanity"
    result = CliRunner().invoke(program, arguments)
    # All that is wrong with it is that this folder names no pipeline.
    assert result.exit_code == 2
    assert "no pipeline to judge" in result.stderr


def test_pre_commit_takes_the_hooks() -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    command = [sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "of_the_tool"),
    [("collator", False), ("TS304", False), ("collator and refuses", True)],
)
def test_a_stage_alone_asks_the_pipelines_and_more_words_the_tests_of_the_tool(
    words: str, of_the_tool: bool
) -> None:
    files = ["tests/pipelines/test_tiny_qwen3.py", "tests/checks/test_collator.py"]
    ended = subprocess.run(
        [*(sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", words), *files],
        cwd=HOOKS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    asked = [line for line in ended.stdout.splitlines() if "::" in line]
    assert asked, ended.stdout
    assert all(files[of_the_tool] in line for line in asked)
