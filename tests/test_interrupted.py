"""Ctrl-C, a real signal to a real process, leaves the pipeline as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TIMES = 16


@pytest.mark.parametrize("factory", ["cli_factories:healthy", "cli_factories:loud"])
def test_ctrl_c_at_any_moment_leaves_everything_as_it_was(factory: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.examples.interrupted", factory, str(TIMES)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "examples")]),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said = [line for line in ended.stdout.splitlines() if line.startswith("SEEN ")]
    *lines, last = [line.removeprefix("SEEN ") for line in said]
    assert len(lines) == TIMES, ended.stderr
    assert last == "trains as if nothing had been"
    assert [line for line in lines if not line.endswith(": as it was")] == []
    caught = {line.partition(":")[0] for line in lines}
    # Most came in time, and in the middle of several looks.
    assert len(caught - {"", "too late"}) >= 3, lines
