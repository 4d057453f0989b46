"""Two ways to run the program, and what a call that came to nothing must look like."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trainsanity.cli.main import program

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "examples"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the program in this process, in an empty directory, with the examples importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(program, list(arguments), prog_name="trainsanity")


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs it as users do, in a process of its own."""

    def start(
        *arguments: str, python: tuple[str, ...] = ("-m", "trainsanity")
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ROOT), str(EXAMPLES)])
        return subprocess.run(
            [sys.executable, *python, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return start


@pytest.fixture
def complaint() -> Callable[..., str]:
    """The one sentence on stderr; there is nothing on stdout and no traceback."""

    def read(result: Any, code: int = 2) -> str:
        ended_with = result.exit_code if isinstance(result, Result) else result.returncode
        assert ended_with == code, result.stderr
        assert result.stdout == ""
        # On a slow machine a line says what takes so long.
        every: list[str] = result.stderr.splitlines()
        lines = [line for line in every if not re.match(r"trainsanity: \d+ s: ", line)]
        assert [line for line in lines if line.startswith("trainsanity:")] == lines[-1:]
        assert "Traceback" not in result.stderr
        return lines[-1].removeprefix("trainsanity: error: ")

    return read
