"""Ctrl-C, a real signal to a real process, leaves the pipeline as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]

TIMES = 16


@pytest.mark.parametrize(
    "factory",
    ["cli_factories:healthy", pytest.param("cli_factories:loud", marks=pytest.mark.matrix)],
)
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


def test_sigterm_leaves_no_folder_and_no_process(tmp_path: Path) -> None:
    """As a scheduler sends it, while a run is resumed in a process of its own."""
    command = (*("-m", "trainsanity", "run", "--select", "TS902"), "cli_factories:healthy")
    started = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT / "tests" / "examples",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "examples")]),
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 200
    children: list[psutil.Process] = []
    while not children and started.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
        children = [
            child
            for child in psutil.Process(started.pid).children(recursive=True)
            if any("fresh" in word for word in child.cmdline())
        ]
    assert children, started.communicate()
    assert [*tmp_path.glob("trainsanity-*")]
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 143
    assert said.splitlines()[-1] == "trainsanity: terminated; no JSON was written"
    assert not [*tmp_path.glob("trainsanity-*")]
    assert not [child for child in children if child.is_running()]
