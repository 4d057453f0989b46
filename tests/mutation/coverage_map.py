"""Which tests run which lines of the mutated packages, and how long each test takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

TESTS = (
    "tests/checks",
    "tests/cli/test_cli_data.py",
    "tests/cli/test_cli_input.py",
    "tests/isolation",
    "tests/measurements",
    "tests/mutation/noticed.py",
    "tests/sources/test_loop.py",
    "tests/test_controls.py::test_control_runs",
    "tests/test_not_a_number.py",
    "tests/test_show.py",
    "tests/test_tasks.py",
    "tests/test_tolerances.py",
)
"""The tests that look at checks and measurements; those of the faces and of the command line
would only be slower at it."""

BROAD = "tests/mutation/noticed.py::test_control["
"""All that is said and measured of a healthy pipeline."""

IN_PROCESSES = "tests/mutation/noticed.py::test_processes_"
HEALTHY_IN_PROCESSES = f"{IN_PROCESSES}healthy"
"""What is said of pipelines that two processes train, and of healthy ones."""

STARTED = """\
[run]
data_file = {tree}/.coverage
parallel = true
sigterm = true
include =
    {tree}/trainsanity/checks/*
    {tree}/trainsanity/measurements/*
disable_warnings = no-data-collected
"""
"""How coverage looks at the processes that tests start: see `started/sitecustomize.py`.  pytest-cov
combines what they leave beside its own file."""


@dataclass(frozen=True)
class Coverage:
    """What a run of the tests without a mutant showed.

    Attributes:
        seconds: of each test, by node id.
        lines: by file, line and test: the tests that ran the line.
        sources: the files as they were.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]
    sources: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Coverage:
        """As :meth:`write` left it."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    def tests_of(self, file: str, lines: set[int]) -> list[str]:
        """The tests that run one of the lines: a few that look at most first, then the quick ones.

        A line that runs when the module is imported belongs to all tests of the module.
        """
        known = self.lines.get(file, {})
        at_lines = {test for line in lines for test in known.get(str(line), ())}
        if "" in at_lines:
            at_lines = {test for tests in known.values() for test in tests} - {""}
        quick = sorted(at_lines, key=lambda test: self.seconds.get(test, 0.0))
        broad = [test for test in quick if test.startswith(BROAD)][:4]
        broad += [test for test in quick if test.startswith(HEALTHY_IN_PROCESSES)]
        return broad + [test for test in quick if test not in broad]


def measure(tree: Path, options: list[str]) -> Coverage:
    """Run the tests of ``tree`` once.

    Raises:
        SystemExit: one of them fails without any mutant.
    """
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-m", "not corpus and not matrix"),  # the long ones, too
        *("--cov=trainsanity.checks", "--cov=trainsanity.measurements", "--cov-context=test"),
        *("--cov-report=", "--junit-xml=tests.xml", "-o", "junit_family=xunit1", *options),
    ]
    started = tree / "started.cfg"
    started.write_text(STARTED.format(tree=tree), encoding="utf-8")
    path = [str(tree / "tests" / "mutation" / "started"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TRAINSANITY_MUTATION_COVERAGE": str(started),
    }
    done = subprocess.run(command, cwd=tree, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode} without a mutant")
    return Coverage(_seconds(tree), _lines(tree), _sources(tree))


def _seconds(tree: Path) -> dict[str, float]:
    cases = ElementTree.parse(tree / "tests.xml").iter("testcase")
    found = {}
    for case in cases:
        module = str(case.get("file"))
        found[f"{module}::{case.get('name')}"] = float(case.get("time") or 0)
    return found


def _lines(tree: Path) -> dict[str, dict[str, list[str]]]:
    import coverage

    data = coverage.CoverageData(str(tree / ".coverage"))
    data.read()
    files: dict[str, dict[str, list[str]]] = {}
    for file in data.measured_files():
        lines: dict[str, Any] = {}
        for line, contexts in data.contexts_by_lineno(file).items():
            lines[str(line)] = sorted({context.partition("|")[0] for context in contexts})
        files[str(Path(file).relative_to(tree))] = lines
    return files


def _sources(tree: Path) -> dict[str, str]:
    files = [*tree.glob("trainsanity/checks/*.py"), *tree.glob("trainsanity/measurements/*.py")]
    return {str(file.relative_to(tree)): file.read_text(encoding="utf-8") for file in files}
