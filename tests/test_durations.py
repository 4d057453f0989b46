"""What test modules cost is counted, written, and decides which a worker begins with."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import durations


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "durations.json"
    path.write_text('{"tests/b.py": {"before": 9.0, "tests": 1, "seconds": 8.0}}')
    monkeypatch.setattr(durations, "WRITTEN", path)
    monkeypatch.setattr(durations, "_seconds", Counter())
    monkeypatch.setattr(durations, "_tests", Counter())
    return path


def report(test: str, when: str, seconds: float) -> Any:
    return SimpleNamespace(nodeid=test, when=when, processor_seconds=seconds)


def test_seconds_of_all_phases_are_added_up_and_what_was_before_is_kept(written: Path) -> None:
    for test in ("tests/a.py::one", "tests/a.py::two", "tests/b.py::one"):
        for when, seconds in (("setup", 0.5), ("call", 2.0), ("teardown", 0.25)):
            durations.pytest_runtest_logreport(report(test, when, seconds))
    durations.pytest_sessionfinish(SimpleNamespace(config=object()))  # type: ignore[arg-type]
    known = json.loads(written.read_text())
    known.pop("tests/test_durations.py", None)  # where the plugin counts this very test
    assert known == {
        "tests/a.py": {"tests": 2, "seconds": 5.5},
        "tests/b.py": {"tests": 1, "seconds": 2.8, "before": 9.0},
    }


def test_a_worker_writes_nothing(written: Path) -> None:
    before = written.read_text()
    config = SimpleNamespace(workerinput={})
    durations.pytest_sessionfinish(SimpleNamespace(config=config))  # type: ignore[arg-type]
    assert written.read_text() == before


def test_what_a_process_that_was_waited_for_has_had_counts() -> None:
    import subprocess
    import sys

    before = durations.spent()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert durations.spent() - before >= 0.25


def test_the_longest_module_comes_first_and_its_tests_stay_in_order(written: Path) -> None:
    tests = ["tests/new.py::one", "tests/b.py::one", "tests/b.py::two", "tests/new.py::two"]
    items: list[Any] = [SimpleNamespace(nodeid=test) for test in tests]
    durations.order_longest_first(items)
    assert [item.nodeid for item in items] == [tests[1], tests[2], tests[0], tests[3]]
