"""Two processes over gloo on the CPU: one report, the whole batch, the factor named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.distributed


def judged(folder: Path, factory: str) -> tuple[int, Any, str]:
    """Exit code, JSON report and stderr of ``torchrun -m trainsanity run``."""
    report = folder / "report.json"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", "-m", "trainsanity", "run"),
            *(f"--json={report}", f"tests.examples.processes:{factory}"),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert report.exists(), process.stderr
    assert process.stdout.count("checks ran") == 1, process.stdout
    return process.returncode, json.loads(report.read_text()), process.stderr


def test_a_healthy_run_is_green(tmp_path: Path) -> None:
    code, report, stderr = judged(tmp_path, "healthy")
    bad = [row for row in report["results"] if row["status"] not in ("pass", "skip")]
    assert not bad
    assert code == 0, stderr
    by_name = {row["name"]: row for row in report["results"]}
    assert report["facts"]["world_size"] == 2
    # Two processes, two micro-batches each, four rows in each.
    assert "mean over the 16 examples" in by_name["loss.matches_reference"]["message"]
    assert by_name["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-4)
    assert by_name["gradient.matches_autograd"]["status"] == "pass"


def test_the_factor_is_accumulation_times_processes(tmp_path: Path) -> None:
    from fixtures.pipelines import tiny_qwen3

    if not tiny_qwen3.incident(rows=48).model_accepts_loss_kwargs:
        pytest.skip("this transformers divides the loss of this model by itself")
    code, report, _ = judged(tmp_path, "incident")
    assert code == 1
    by_name = {row["name"]: row for row in report["results"]}
    loss = by_name["loss.matches_reference"]
    assert loss["factor"] == pytest.approx(4, rel=1e-3)
    assert "gradient_accumulation_steps x world_size = 2 x 2" in loss["cause"]


def test_what_one_process_sees_counts_for_both(tmp_path: Path) -> None:
    code, report, _ = judged(tmp_path, "one_rank_is_nan")
    assert code == 1
    by_name = {row["name"]: row for row in report["results"]}
    assert by_name["loss.finite"]["status"] == "fail"
    assert "process 1" in by_name["loss.finite"]["where"]
