"""Tensors that processes exchange lie where the group's backend takes them."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from trainsanity.isolation.collectives import added_up, overwritten_from_zero, served


@pytest.fixture
def group(request):
    """A group of this process alone, by the backend that the test names."""
    distributed.init_process_group(
        request.param, store=distributed.HashStore(), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("backends", "own", "device"),
    [
        ("cuda:nccl", "cpu", "cuda"),
        ("cuda:nccl", "cuda:1", "cuda:1"),
        ("cpu:gloo,cuda:nccl", "cpu", "cpu"),
        ("cpu:gloo,cuda:nccl", "cuda", "cuda"),
        ("cpu:gloo,cuda:gloo", "cuda:0", "cuda:0"),
        ("xpu:xccl", "cpu", "xpu"),
    ],
)
def test_a_tensor_stays_where_a_backend_takes_it(backends, own, device, monkeypatch):
    monkeypatch.setattr(distributed, "get_backend_config", lambda: backends)
    assert served(own) == torch.device(device)


@pytest.mark.parametrize(
    ("group", "device"), [("gloo", "cpu"), (None, "cpu"), ("cuda:gloo", "cuda")], indirect=["group"]
)
def test_the_group_tells_its_devices(group, device):
    assert served("cpu") == torch.device(device)
    if device == "cpu":
        distributed.all_reduce(torch.ones(1))
    else:  # as under NCCL
        with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
            distributed.all_reduce(torch.ones(1))


@pytest.mark.parametrize("group", ["gloo"], indirect=True)
def test_a_sum_is_another_tensor_and_weights_are_overwritten_in_place(group, monkeypatch):
    one = torch.tensor([1.0, 2.0])
    total = added_up(one)
    assert torch.equal(total, one)
    assert total.data_ptr() != one.data_ptr()
    monkeypatch.setattr(distributed, "broadcast", lambda tensor, src: tensor.sub_(1 + src))
    parameter = torch.nn.Parameter(torch.ones(2))
    overwritten_from_zero([parameter])
    assert not parameter.any()
