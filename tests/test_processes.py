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


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
# With --cpu it starts one process, or as many as MPI has; the pipeline itself asks for the CPU.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
              "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")  # fmt: skip


def started(folder: Path, factory: str, launcher: tuple[str, ...] = TORCHRUN) -> Any:
    """Two processes of ``trainsanity run``, when they have ended."""
    return subprocess.run(
        [
            *(sys.executable, "-m", *launcher, "-m", "trainsanity", "run"),
            *(f"--json={folder / 'report.json'}", f"tests.examples.processes:{factory}"),
        ],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def judged(
    folder: Path, factory: str, launcher: tuple[str, ...] = TORCHRUN
) -> tuple[int, Any, str]:
    """Exit code, JSON report and stderr of two processes of ``trainsanity run``."""
    process = started(folder, factory, launcher)
    report = folder / "report.json"
    assert report.exists(), process.stderr
    assert process.stdout.count("checks ran") == 1, process.stdout
    return process.returncode, json.loads(report.read_text()), process.stderr


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_healthy_run_is_green(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    code, report, stderr = judged(tmp_path, "healthy", launcher)
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


def test_a_process_that_raises_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    ended = started(tmp_path, "one_rank_raises")
    assert ended.returncode != 0
    said = next(line for line in ended.stderr.splitlines() if "trainsanity: error" in line)
    assert "process 1 failed and the others wait for it" in said
    assert "no room for this batch" in said
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    ended = started(tmp_path, "one_rank_dies")
    assert ended.returncode != 0
    # torchrun's own words: it ends the others.
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert "rank      : 1 (local_rank: 1)" in ended.stderr
    assert not list(tmp_path.iterdir())
