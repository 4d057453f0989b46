"""What torch.compile has compiled runs as it is written in a block, and compiled again after it."""

from __future__ import annotations

import pytest
import torch

from trainsanity.isolation.compiled import not_compiled

pytestmark = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="this torch has no stances"
)


def test_another_shape_is_not_compiled_anew_in_the_block():
    shapes = []

    def backend(graph, inputs):
        shapes.append(tuple(inputs[-1].shape))
        return graph.forward

    doubled = torch.compile(lambda x: x * 2, backend=backend, dynamic=False)
    assert torch.equal(doubled(torch.ones(2)), torch.full((2,), 2.0))
    with not_compiled():
        assert torch.equal(doubled(torch.ones(3)), torch.full((3,), 2.0))
    assert shapes == [(2,)]
    doubled(torch.ones(4))
    assert shapes == [(2,), (4,)]
