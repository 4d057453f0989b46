"""Engines that shard, in two processes over gloo: DeepSpeed's ZeRO, FSDP2 in mixed precision.

DeepSpeed has no wheel on the index (docs/guides say how to make one), so that its tests run where
it is installed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from fixtures.processes import reported
from tests.test_processes import by_name, names

pytestmark = [pytest.mark.distributed, pytest.mark.long]

HEALTHY = ("zero2", "zero3", "zero3_in_parts", "zero2_mixed", "zero3_mixed")

with_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


def engine(name: str) -> str:
    return f"tests.examples.processes_engines:{name}"


@pytest.fixture(scope="module")
def zero() -> dict[str, Any]:
    targets = (*HEALTHY, "zero2_factor", "zero3_factor", "zero2_incident")
    said, _ = reported([engine(name) for name in targets], timeout=900)
    return dict(zip(targets, said, strict=True))


@with_deepspeed
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_by_zero_is_green(name, zero):
    report = zero[name]
    # No error: weights, buffers and gradients are what they were, bit for bit.
    assert names(report, "fail", "error", "blocked", "abstain") == set()
    rows = by_name(report)
    assert rows["loss.train_equals_eval"]["status"] == "pass"
    assert "mean over the 16 examples" in rows["loss.matches_reference"]["message"]
    assert rows["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-2)
    if name.startswith("zero2"):  # whose weights are whole on every process
        assert rows["loop.ranks_hold_equal_weights"]["status"] == "pass"


@with_deepspeed
@pytest.mark.parametrize("name", ["zero2_factor", "zero3_factor"])
def test_the_factor_is_seen_through_zero(name, zero):
    loss = by_name(zero[name])["loss.matches_reference"]
    assert names(zero[name], "fail") == {"loss.matches_reference"}
    assert names(zero[name], "error", "abstain") == set()
    assert loss["factor"] == pytest.approx(2, rel=1e-3)
    assert "world_size = 2" in loss["cause"]


@with_deepspeed
def test_accumulation_times_processes_is_seen_through_zero(zero):
    from fixtures.pipelines import tiny_qwen3

    if not tiny_qwen3.incident(rows=48).model_accepts_loss_kwargs:
        pytest.skip("this transformers divides the loss of this model by itself")
    loss = by_name(zero["zero2_incident"])["loss.matches_reference"]
    assert names(zero["zero2_incident"], "fail") == {"loss.matches_reference"}
    assert loss["factor"] == pytest.approx(4, rel=1e-3)
    assert "gradient_accumulation_steps x world_size = 2 x 2" in loss["cause"]
    evaluated = by_name(zero["zero2_incident"])["loss.train_equals_eval"]
    assert evaluated["factor"] == pytest.approx(2, rel=1e-3)
    assert "the same repair" in evaluated["reason"]


@with_deepspeed
def test_what_zero_does_not_show_is_skipped_with_its_reason(zero):
    rows = by_name(zero["zero2"])
    for name in ("gradient.clipping", "update.survives_rounding", "loss.rows_in_any_order"):
        assert rows[name]["status"] == "skip"
        assert "DeepSpeed" in rows[name]["reason"]


def test_fsdp2_in_mixed_precision_and_with_adapters_is_green_on_its_shards():
    targets = ("sharded_mixed", "sharded_copy", "sharded_lora")
    (report, copied, adapted), _ = reported([engine(name) for name in targets])
    for one in (report, copied, adapted):
        assert names(one, "fail", "error", "blocked", "abstain") == set()
        assert "16 rows" in by_name(one)["loss.train_equals_eval"]["message"]
    assert by_name(adapted)["model.adapter_begins_as_base"]["status"] == "pass"
    compared = [by_name(one)["gradient.matches_autograd"]["message"] for one in (report, copied)]
    assert {one.partition(" (")[0] for one in compared} == {"24 gradients"}
    assert any(
        "sharded the model over 2 processes" in one for one in report["environment"]["notes"]
    )
    rows = by_name(report)
    # Asked in float32, raised from parts: bfloat16 could not tell so little apart.
    assert "asked in" not in rows["model.batch_equals_single"]["message"]
    assert rows["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-2)


@pytest.fixture(scope="module")
def tensor() -> dict[str, Any]:
    targets = ("tensor", "tensor_factor", "tensor_accumulated")
    said, _ = reported([engine(name) for name in targets])
    return dict(zip(targets, said, strict=True))


with_meshes = pytest.mark.skipif(
    importlib.util.find_spec("transformers.distributed.tensor_parallel") is None,
    reason="the Trainer of this transformers knows no mesh for tensor parallelism",
)


@with_meshes
def test_tensor_parallelism_is_green_and_its_processes_count_as_one(tensor):
    report = tensor["tensor"]
    assert names(report, "fail", "warning", "error", "blocked", "abstain") == set()
    rows = by_name(report)
    assert "mean over the 4 examples" in rows["loss.matches_reference"]["message"]
    assert rows["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-2)
    assert rows["loop.ranks_share_the_data"]["status"] == "pass"


@with_meshes
def test_a_factor_of_a_dimension_is_named_by_it(tensor):
    report = tensor["tensor_factor"]
    loss = by_name(report)["loss.matches_reference"]
    assert names(report, "fail") == {"loss.matches_reference"}
    assert loss["factor"] == pytest.approx(2, rel=1e-3)
    assert "tp_size = 2" in loss["cause"]


@with_meshes
def test_gradients_that_are_summed_again_in_each_micro_batch_are_seen(tensor):
    """In transformers 5.24 a hook sums what a norm has accumulated, not what was added to it."""
    law = by_name(tensor["tensor_accumulated"])["gradient.step_is_the_weighted_sum"]
    assert law["status"] == "warning"
    assert "no micro-batch's own" in law["findings"][0]["headline"]


FOUR = ("torch.distributed.run", "--standalone", "--nproc-per-node=4")


@with_meshes
def test_a_mesh_of_data_and_tensor_parallelism():
    targets = [engine(name) for name in ("mesh", "mesh_factor")]
    (healthy, factor), _ = reported(targets, launcher=FOUR)
    assert names(healthy, "fail", "warning", "error", "blocked", "abstain") == set()
    # Two processes for each micro-batch of four rows.
    rows = by_name(healthy)
    assert "mean over the 8 examples" in rows["loss.matches_reference"]["message"]
    assert rows["loop.ranks_share_the_data"]["message"].startswith("2 processes read")
    loss = by_name(factor)["loss.matches_reference"]
    assert names(factor, "fail") == {"loss.matches_reference"}
    assert loss["factor"] == pytest.approx(4, rel=1e-3)
    assert "world_size = 4" in loss["cause"]
