"""The same seed gives the same report, byte for byte but for the times."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]


def ran(target: str, seed: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, whose dictionaries are ordered by another hash; JSON on stdout."""
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
    return result


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return json.dumps(untimed(json.loads(result.stdout)), indent=1).splitlines()


def untimed(value: Any) -> Any:
    """Without what a clock said."""
    if isinstance(value, dict):
        return {
            key: untimed(item) for key, item in value.items() if not re.search("seconds", str(key))
        }
    return [untimed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.matrix
def test_two_processes_write_the_same_report() -> None:
    """Of a pipeline without a tokenizer, which fewer checks have something to say of."""
    assert lines(ran("cli_factories:healthy", "1")) == lines(ran("cli_factories:healthy", "2"))


@pytest.fixture(scope="module")
def incident() -> subprocess.CompletedProcess[str]:
    """The incident as a user runs it."""
    pytest.importorskip("tiktoken")
    return ran("fixtures.pipelines.tiny_qwen3:incident", "1")


def test_another_process_writes_the_same_report_of_the_incident(
    incident: subprocess.CompletedProcess[str],
) -> None:
    assert lines(incident) == lines(ran("fixtures.pipelines.tiny_qwen3:incident", "2"))


def test_the_incident_as_a_user_runs_it(incident: subprocess.CompletedProcess[str]) -> None:
    document = json.loads(incident.stdout)
    by_code = {row["code"]: row for row in document["results"]}
    if tuple(int(part) for part in version("transformers").split(".")[:2]) < (4, 54):
        assert incident.returncode == 0, incident.stderr
        assert by_code["TS502"]["status"] == "pass"
        return
    assert incident.returncode == 1, incident.stderr
    summary = document["summary"]
    assert summary["first_broken_stage"] == "loss"
    assert (summary["fail"], summary["error"]) == (1, 0)
    assert by_code["TS502"]["factor"] == pytest.approx(12, rel=1e-3)
    assert "gradient_accumulation_steps = 12" in by_code["TS502"]["cause"]
    assert "accepts_loss_kwargs = False" in by_code["TS502"]["fix"]
    assert summary["acquitted"].keys() >= {
        "PAD / EOS", "pad_to_multiple_of", "attention mask", "head initialisation", "labels"
    }  # fmt: skip
    assert "not sane. First broken stage: loss" in incident.stderr
