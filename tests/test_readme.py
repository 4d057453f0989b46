"""README.md is short, shows what the tool prints, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.test_tiny_qwen3 import DEFECT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -c .ci/constraints.txt -e '.[dev]' && "


def test_it_is_read_in_two_minutes() -> None:
    assert len(README.encode()) <= 6000
    assert README.count("![") == 1


@pytest.mark.parametrize(
    "command",
    [
        ".venv/bin/trainsanity run fixtures.pipelines.tiny_qwen3:incident",
        ".venv/bin/pytest -n 2 --dist loadfile",
    ],
)
def test_commands_from_a_fresh_clone(command: str) -> None:
    assert f"```sh\n{INSTALL}{command}\n```" in README


def test_ci_runs_the_tests_as_readme_does() -> None:
    assert 'pytest -n 2 --dist loadfile "$@"' in (ROOT / ".ci" / "run").read_text()


@pytest.mark.skipif(not DEFECT, reason="this transformers does not have the incident's defect")
def test_the_report_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/readme.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
