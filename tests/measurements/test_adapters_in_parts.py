"""Adapters whose weights lie in parts are read as whole ones, with what NCCL refuses refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from fixtures.controls.pipelines import lora
from fixtures.faults import healthy
from fixtures.nccl import HostRefused
from trainsanity.measurements.model.adapter_base import _empty_rows, adapter_base
from trainsanity.measurements.model.drawn_adapters import _norm_of_product, drawn_adapters


@pytest.fixture
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    healthy().model.save_pretrained(folder)
    return str(folder)


def in_parts(model, mesh):
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            part = distributed.tensor.distribute_tensor(p.detach(), mesh)
            setattr(module, name, torch.nn.Parameter(part, requires_grad=p.requires_grad))


@pytest.fixture
def adapted(checkpoint):
    model = lora(healthy()).model
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(len(name)))
    model.peft_config["default"].base_model_name_or_path = checkpoint
    with torch.no_grad():
        layer = model.base_model.model.model.layers[1].self_attn.v_proj.base_layer
        layer.weight[0, 0] += 0.5
        model.base_model.model.model.embed_tokens.weight[3] = 0
    model.base_model.model.config._name_or_path = "another"
    return model


def read(model):
    pipeline = SimpleNamespace(model=model)
    active = SimpleNamespace(active=["default"])
    embedding = model.base_model.model.get_input_embeddings()
    return (
        drawn_adapters(pipeline),
        adapter_base(pipeline, active),
        _empty_rows(embedding, {2, 3, 4, 10**9}),
    )


def test_what_is_read_of_parts_is_what_is_read_of_whole_weights(adapted, mesh):
    drawn, base, empty = read(adapted)
    assert drawn.zeros == 0
    assert list(base.differ.values()) == [pytest.approx(0.5)]
    assert empty == {3}
    in_parts(adapted, mesh)
    with HostRefused():
        again, base_again, empty_again = read(adapted)
    assert (again.elements, again.zeros, again.largest) == (drawn.elements, 0, drawn.largest)
    assert again.changed == pytest.approx(drawn.changed)
    assert (base_again, empty_again) == (base, empty)


def test_a_change_is_measured_by_products_of_the_rank():
    draw = torch.Generator().manual_seed(0)
    b, a = torch.randn(70, 4, generator=draw), torch.randn(4, 50, generator=draw)
    assert _norm_of_product(b, a) == pytest.approx(float((b @ a).norm()), rel=1e-5)
    assert _norm_of_product(b * 0, a) == 0.0
