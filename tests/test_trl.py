"""Unmodified TRL scripts: the checks run in place of training, and nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_script(tmp_path: Path, name: str) -> None:
    # Not imported: what TRL does to this process would be every later test's.
    if importlib.util.find_spec("trl") is None:
        pytest.skip("needs TRL: pip install trl")
    pytest.importorskip("tiktoken")
    script = str(ROOT / "fixtures" / "scripts" / f"{name}.py")
    process = subprocess.run(
        [sys.executable, "-m", "trainsanity", "run", "--json=-", script, "--", "--max_steps=10"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    document = json.loads(process.stdout)
    summary = document["summary"]
    wrong = [row for row in document["results"] if row["status"] in ("fail", "error", "blocked")]
    assert process.returncode == 0, wrong
    assert not wrong
    # Ten steps, as the script was told: nobody else knows them.
    by_name = {row["name"]: row for row in document["results"]}
    assert by_name["schedule.peak_is_reached"]["status"] == "pass"
    assert document["facts"]["model"].startswith("Qwen3For")
    assert summary["ran"] >= 4
    assert list(tmp_path.iterdir()) == []
