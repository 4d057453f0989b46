"""All benchmarks are in the one table; what they measure is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import run


def test_every_benchmark_has_its_rows() -> None:
    names = {path.stem for path in run.HERE.glob("*.py")} - {"run"}
    assert names <= set(run.ROWS)


def test_a_small_one_is_run_and_told(tmp_path: Path) -> None:
    """The log of 200 MB, but for its size."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(run.HERE / "diagnose.py"), "1", "--json", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode in (0, 1), said.stderr
    lines = run.table({"diagnose": run.figures(file, "diagnose")}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| diagnose, 1 MB log",
        "| diagnose, 1 MB log, memory",
    ]


def test_figures_of_one_benchmark_join_those_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    old = {"where": {"python": "3.11", "cores": 2, "date": "2026-01-02"},
           "figures": {"collect": 1, "scan": 2}}  # fmt: skip
    file.write_text(json.dumps(old))
    made = run.document({"scan_targets": 3}, file)
    assert list(made["figures"].items()) == [("scan", 2), ("scan_targets", 3), ("collect", 1)]
    assert made["where"]["date"] == "2026-01-02"
    assert list(made["where"]["later"]) == ["scan_targets"]
