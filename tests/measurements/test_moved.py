"""Where weights cannot be raised, small ones are moved: what a model's roundings make is known."""

from __future__ import annotations

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.isolation.hashing import hashes
from trainsanity.measurements.model.raised import asked
from trainsanity.pipeline import Pipeline


@pytest.fixture
def pipeline():
    return Pipeline.from_trainer(healthy())


def logits(pipeline):
    with torch.no_grad():
        ids = torch.arange(20).view(2, 10)
        return pipeline.model(input_ids=ids).logits.float()


def test_small_weights_are_moved_and_put_back(pipeline):
    pipeline.model.bfloat16()
    before = hashes(pipeline.model.parameters())
    with asked(pipeline, "trained", "weights of 4 bits") as way:
        own = logits(pipeline)
        with way.nudged() as possible:
            other = logits(pipeline)
        again = logits(pipeline)
    assert possible
    assert 0 < float((other - own).abs().max()) < 0.5 * float(own.abs().max())
    assert torch.equal(own, again)
    assert hashes(pipeline.model.parameters()) == before
    assert way.roundings(float((other - own).abs().max()), float(own.abs().max())) > 0


def test_in_float32_nothing_is_moved(pipeline):
    with asked(pipeline, "trained", "weights of 4 bits") as way, way.nudged() as possible:
        assert not possible
