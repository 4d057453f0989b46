"""What one process alone has of a model that several would share."""

from __future__ import annotations

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.isolation.fsdp import beside_model, complete
from trainsanity.isolation.shards import added, local, whole
from trainsanity.pipeline import Pipeline


@pytest.mark.parametrize("sharded", [[False, False], [True, False], [True, True]])
def test_counts_over_one_process_are_its_own(sharded):
    assert added([[1, 2], [3, 4]], sharded) == [[1, 2], [3, 4]]


def test_a_tensor_that_is_whole_is_itself():
    one = torch.ones(2)
    assert local(one) is one
    assert whole(one) is one


def test_a_batch_is_moved_only_for_a_model_that_is_sharded():
    pipeline = Pipeline.from_trainer(healthy())
    inputs = {"input_ids": torch.ones(2), "words": "kept"}
    assert beside_model(pipeline, inputs) is inputs
    pipeline.trainer.is_fsdp_enabled = True
    moved = beside_model(pipeline, inputs)
    assert moved is not inputs
    assert moved["input_ids"].device == pipeline.device
    assert moved["words"] == "kept"
    assert beside_model(pipeline, ["rows"]) == ["rows"]


def test_nobody_sends_weights_to_one_process():
    from accelerate.utils import FullyShardedDataParallelPlugin

    trainer = healthy()
    state = trainer.accelerator.state
    before = dict(state._shared_state)
    weights = [parameter.clone() for parameter in trainer.model.parameters()]
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=True
    )
    try:
        complete(trainer)
    finally:
        state._shared_state.clear()
        state._shared_state.update(before)
    assert all(map(torch.equal, weights, trainer.model.parameters()))
