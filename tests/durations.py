"""A pytest plugin that writes what each test module costs, in seconds of the processor.

    pytest -n 2 --dist loadfile -p tests.durations        # writes .ci/durations.json
    python .ci/tables.py durations                        # the table in ARCHITECTURE.md

Other programs may run meanwhile: what is counted is the time of the test's own process and of all
that it started and waited for.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WRITTEN = Path(__file__).resolve().parents[1] / ".ci" / "durations.json"

_spent: float = 0.0
_seconds: Counter[str] = Counter()
_tests: Counter[str] = Counter()


def spent() -> float:
    """Return the seconds of the processor that this process and those it waited for have had."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def order_longest_first(items: list[pytest.Item]) -> None:
    """Order modules by what was written, so that no worker begins a long one as others end."""
    if WRITTEN.exists():
        known = json.loads(WRITTEN.read_text(encoding="utf-8"))
        seconds = {
            module: told.get("seconds", told.get("before", 0.0)) for module, told in known.items()
        }
        items.sort(key=lambda item: -seconds.get(item.nodeid.partition("::")[0], 0.0))


def pytest_runtest_logstart() -> None:
    """Begin to count for a test."""
    global _spent  # noqa: PLW0603
    _spent = spent()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Note in the report of a phase, which xdist sends on, what it took."""
    global _spent
    report: Any = yield
    now = spent()
    report.processor_seconds, _spent = now - _spent, now
    return report


def pytest_runtest_logreport(report: Any) -> None:
    """Add a phase to its module."""
    module = report.nodeid.partition("::")[0]
    _seconds[module] += getattr(report, "processor_seconds", 0.0)
    _tests[module] += report.when == "setup"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the modules that were run; what is known of others, and from before, is kept."""
    if hasattr(session.config, "workerinput"):
        return
    known = json.loads(WRITTEN.read_text(encoding="utf-8")) if WRITTEN.exists() else {}
    for module in _seconds:
        told = {"tests": _tests[module], "seconds": round(_seconds[module], 1)}
        known[module] = {**known.get(module, {}), **told}
    text = json.dumps(known, indent=1, sort_keys=True)
    WRITTEN.write_text(f"{text}\n", encoding="utf-8")
