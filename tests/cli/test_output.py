"""Streams of any encoding, and what a log is told while a long run is silent."""

from __future__ import annotations

import io

import pytest

from tests.reports import HEALTHY, INCIDENT
from trainsanity.cli import output
from trainsanity.errors import UsageError
from trainsanity.report.screen import render


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_report_on_a_stream_of_any_encoding(encoding: str) -> None:
    bytes_ = io.BytesIO()
    stream = io.TextIOWrapper(bytes_, encoding=encoding)
    output.write(stream, render(INCIDENT) + "größe fehlt \ud800\n")
    text = bytes_.getvalue().decode(encoding)
    assert ("\N{CHECK MARK} 1" if encoding == "utf-8" else "ok 1") in text
    assert "\\ud800" in text
    output.write(stream, render(HEALTHY))


def test_a_log_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    log = io.StringIO()
    show = output._Seldom(log)
    for second in range(36):
        now = float(second)
        show(f"TS50{second % 10} the \x1b[2Jstep")
    assert log.getvalue().splitlines() == [
        r"trainsanity: 10 s: TS500 the \x1b[2Jstep",
        r"trainsanity: 20 s: TS500 the \x1b[2Jstep",
        r"trainsanity: 30 s: TS500 the \x1b[2Jstep",
    ]


def test_progress_of_a_redirected_run_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "SILENCE", 0.0)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with output.progress() as show:
        show("the first batch")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "trainsanity: 0 s: the first batch\n"


def test_two_reports_do_not_share_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("link").symlink_to("x")
    output.refuse_one_file_for_two({"--json": "-", "--html": "x", "--sarif": None})
    output.refuse_one_file_for_two({"--json": "/dev/null", "--html": "/dev/null"})
    for name in ("x", "./x", "link"):
        with pytest.raises(UsageError, match=f"--html {name}: --json writes there"):
            output.refuse_one_file_for_two({"--json": "x", "--html": name})


@pytest.mark.parametrize("name", ["train.py", "pyproject.toml", "config.yaml"])
def test_no_report_replaces_what_was_written_by_hand(tmp_path, name: str) -> None:
    path = tmp_path / name
    output.OutputFile("--json", str(path))  # there is none yet
    path.write_text("mine")
    with pytest.raises(UsageError, match="that is code or configuration, give another file"):
        output.OutputFile("--json", str(path))
    assert path.read_text() == "mine"
