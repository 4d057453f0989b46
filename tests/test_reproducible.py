"""The same seed gives the same report, byte for byte but for the times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def report(target: str, seed: str) -> str:
    """The JSON text of a process of its own, whose dictionaries are ordered by another hash."""
    result = subprocess.run(
        [sys.executable, "-m", "trainsanity", "run", target, "--json", "-"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "examples")]),
            "PYTHONHASHSEED": seed,
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode in (0, 1), result.stderr
    return json.dumps(untimed(json.loads(result.stdout)), indent=1)


def untimed(value: Any) -> Any:
    """Without what a clock said."""
    if isinstance(value, dict):
        return {
            key: untimed(item) for key, item in value.items() if not re.search("seconds", str(key))
        }
    return [untimed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "target",
    [
        # Without a tokenizer fewer checks have an occasion, and none that fails.
        pytest.param("cli_factories:healthy", marks=pytest.mark.matrix),
        "fixtures.pipelines.tiny_qwen3:incident",
    ],
)
def test_two_processes_write_the_same_report(target: str) -> None:
    if target.startswith("fixtures"):
        pytest.importorskip("tiktoken")
    one, other = report(target, "1"), report(target, "2")
    assert one.splitlines() == other.splitlines()
