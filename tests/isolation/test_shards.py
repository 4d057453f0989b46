"""Hooks of engines that shard, and which models can be sharded before they train."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainsanity.isolation import fsdp
from trainsanity.isolation.shards import engine_hooks_off, of_engine


def engine_hook(*_):
    raise AssertionError("an engine's hook ran")


engine_hook.__module__ = "deepspeed.runtime.zero.parameter_offload"


def test_engine_hooks_are_off_in_the_block_and_in_their_places_afterwards():
    model, heard = torch.nn.Linear(2, 2), []
    model.register_forward_pre_hook(lambda *_: heard.append("first"))
    engines = model.register_forward_pre_hook(engine_hook)
    model.register_forward_pre_hook(lambda *_: heard.append("last"))
    order = list(model._forward_pre_hooks)
    with engine_hooks_off(model):
        model(torch.zeros(1, 2))
        added = model.register_forward_hook(lambda *_: None)
        added.remove()
    assert heard == ["first", "last"]
    assert list(model._forward_pre_hooks) == order
    with pytest.raises(AssertionError, match="an engine's hook ran"):
        model(torch.zeros(1, 2))
    engines.remove()


def test_a_hook_is_an_engines_by_where_it_was_written():
    assert of_engine(engine_hook)
    assert not of_engine(lambda *_: None)
    assert not of_engine(torch.nn.Linear(1, 1).forward)


def trainer_of(model, processes, **plugin):
    settings = {"fsdp_version": 2, "activation_checkpointing": False, "cpu_offload": None}
    return SimpleNamespace(
        model=model,
        optimizer=None,
        args=SimpleNamespace(world_size=processes, torch_compile=False),
        accelerator=SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=SimpleNamespace(**settings | plugin))
        ),
    )


def test_a_model_with_an_empty_part_is_not_sharded_before_it_trains():
    """torch.chunk gives five rows to four processes as 2, 2, 1 and none."""
    pytest.importorskip("accelerate.utils.fsdp_utils")
    five, eight = torch.nn.Linear(3, 5), torch.nn.Linear(3, 8)
    assert fsdp._can_be_prepared(trainer_of(eight, 4))
    assert not fsdp._can_be_prepared(trainer_of(five, 4))
    assert fsdp._can_be_prepared(trainer_of(five, 3))
    assert not fsdp._can_be_prepared(trainer_of(eight, 4, activation_checkpointing=True))
    assert not fsdp._can_be_prepared(trainer_of(eight, 4, fsdp_version=1))


def test_many_layers_may_round_by_more_than_one_sum():
    """Qwen3-4B in float32 on a GPU: 3.3e-5 between neighbours, one unit of the weights 1e-5."""
    from trainsanity.measurements.model.companions import Companions
    from trainsanity.measurements.model.raised import Precision

    seen = Companions(4.0, [3.3e-5], precision=Precision("blocks", torch.float32))
    assert seen.allowed < 3.3e-5
    seen.unit = 1e-5
    assert seen.allowed == pytest.approx(4e-5)
    seen.unit = float("nan")
    assert seen.allowed != seen.allowed
