"""Two processes with a GPU each, over NCCL: what gloo shows on the CPU, where people train.

TRAINSANITY_RECORD names a file that gets a line of JSON for each report, for the
documentation's table.
"""

from __future__ import annotations

import datetime
import json
import os

import pytest

from fixtures.processes import reported
from tests.test_processes import assert_green, by_name, names

pytestmark = pytest.mark.gpu

HEALTHY = {"ddp": "healthy", "fsdp2": "sharded_healthy"}
"""Each with the run over gloo that ends as it does."""


@pytest.fixture(autouse=True)
def two_gpus():
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def judged(name):
    # One by one: TrainingArguments(fsdp=...) leaves variables in the environment.
    (report,), process = reported([f"tests.examples.processes_gpu:{name}"])
    assert names(report, "error") == set(), process.stderr
    assert "NVIDIA" in report["environment"]["device"]
    if path := os.environ.get("TRAINSANITY_RECORD"):
        line = {
            "date": datetime.date.today().isoformat(),
            "pipeline": name,
            **report["environment"],
            "notes": [],
            "processes": report["facts"]["world_size"],
            "seconds": round(report["summary"]["seconds"], 1),
            "ran": report["summary"]["ran"],
            "of": report["summary"]["of"],
            "failed": sorted(names(report, "fail")),
            "factor": by_name(report)["loss.matches_reference"]["factor"],
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
    return report


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_green(name):
    assert_green(HEALTHY[name], judged(name))


@pytest.mark.parametrize("name", HEALTHY)
def test_the_factor_is_named(name):
    report = judged(f"{name}_factor")
    assert names(report, "fail") == {"loss.matches_reference"}
    assert by_name(report)["loss.matches_reference"]["factor"] == pytest.approx(2, rel=1e-3)
