"""Two processes with a GPU each, over NCCL: what gloo shows on the CPU, where people train."""

from __future__ import annotations

import pytest

from fixtures.processes import reported

pytestmark = pytest.mark.gpu

SKIPS = {
    "ddp": {"model.weights_are_the_checkpoints"},
    # evaluate() before train() raises there, and parts of tensors are not held against each other.
    "fsdp2": {
        "model.weights_are_the_checkpoints",
        "loss.train_equals_eval",
        "gradient.norm_within_bounds",
        "loop.ranks_hold_equal_weights",
    },
}


@pytest.fixture(autouse=True)
def two_gpus():
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def results(name):
    # One by one: TrainingArguments(fsdp=...) leaves variables in the environment.
    (report,), process = reported([f"tests.examples.processes_gpu:{name}"])
    assert "error" not in {row["status"] for row in report["results"]}, process.stderr
    assert report["facts"]["world_size"] == 2
    assert "NVIDIA" in report["environment"]["device"]
    return {row["name"]: row for row in report["results"]}


@pytest.mark.parametrize("name", SKIPS)
def test_a_healthy_run_is_green(name):
    rows = results(name)
    assert {
        n: row["status"] for n, row in rows.items() if row["status"] != "pass"
    } == dict.fromkeys(SKIPS[name], "skip")
    # Two processes, two micro-batches each, four rows in each.
    assert "mean over the 16 examples" in rows["loss.matches_reference"]["message"]
    assert rows["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-4)
    assert rows["gradient.matches_autograd"]["observed"] < 1e-4
    assert "read 152 + 152 of 300 rows" in rows["loop.ranks_share_the_data"]["message"]


@pytest.mark.parametrize("name", SKIPS)
def test_the_factor_is_named(name):
    rows = results(f"{name}_factor")
    assert {n for n, row in rows.items() if row["status"] == "fail"} == {"loss.matches_reference"}
    loss = rows["loss.matches_reference"]
    assert loss["factor"] == pytest.approx(2, rel=1e-3)
