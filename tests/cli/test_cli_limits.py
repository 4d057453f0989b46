"""`--timeout` in processes of their own: said in words, never green."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]
Launch = Callable[..., subprocess.CompletedProcess[str]]
Complaint = Callable[..., str]


def test_a_check_that_takes_too_long_is_an_error_and_the_others_are_judged(launch: Launch) -> None:
    result = launch(
        "run", "cli_factories:sleeping", "--select", "TS503,TS102,dataset", "--timeout", "5"
    )
    assert result.returncode == 3, result.stderr
    said = " ".join(result.stdout.split())
    assert "TS503 loss.finite ended in an error" in said
    assert (
        "measurement 'recording' took longer than the 5 s that it was given and was stopped" in said
    )
    assert "dataset ✓" in said


def test_what_cannot_be_stopped_ends_the_process_and_says_so(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    result = launch(
        "run", "cli_factories:hanging", "--select", "TS503", "--timeout", "3", "--json", "x.json"
    )
    assert result.returncode == 3
    assert result.stdout == ""
    assert (
        "trainsanity: error: measurement 'recording' was told to stop after 3 s and has not for "
        "0.5 s: it is in code that cannot be interrupted, so this process ends without a report"
    ) in result.stderr
    assert "in locked" in result.stderr
    assert not (tmp_path / "x.json").exists()
    # What the factory makes is its own.
    assert [*(tmp_path / "tmp").glob("trainsanity-*")] == [*(tmp_path / "tmp").glob("*-test-*")]


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_limit_is_a_number_above_zero(
    call: Call, complaint: Complaint, seconds: str
) -> None:
    said = complaint(call("run", "cli_factories:healthy", "--timeout", seconds))
    assert "--timeout" in said
