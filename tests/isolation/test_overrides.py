"""Modes and evaluations of the user's own, and what they leave behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fixtures.faults import healthy, subclassed
from trainsanity.isolation.fingerprint import guarded
from trainsanity.isolation.overrides import own_evaluation, own_modes, written_by_modes
from trainsanity.isolation.snapshot import preserved
from trainsanity.pipeline import Pipeline


class Shrinking(nn.Linear):
    """Writes to its weight each time that it is told to evaluate, and freezes its bias."""

    def train(self, mode=True):
        super().train(mode)
        if not mode:
            with torch.no_grad():
                self.weight.mul_(0.5)
            self.bias.requires_grad_(False)
        return self


class Settling(nn.BatchNorm1d):
    """Stays in eval mode, as a frozen batch norm does."""

    def train(self, mode=True):
        return super().train(False)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 3), Shrinking(3, 3), Settling(3))


def test_modes_of_the_users_own_are_named_and_those_of_libraries_are_not(model):
    assert own_modes(model) == ["Shrinking.train", "Settling.train"]
    assert own_modes(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))) == []
    assert own_modes(healthy().model) == []


def test_what_modes_write_is_found_and_taken_back(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    for _ in range(2):
        assert written_by_modes(model) == ["1.weight"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert written_by_modes(nn.Sequential(Settling(3))) == []


def test_a_measurement_that_switches_modes_leaves_the_pipeline_as_it_was(model):
    pipeline = Pipeline(model=model)
    with guarded(pipeline, "this test", {}), preserved(pipeline):
        model.eval()
        model.train()
        assert not model[1].bias.requires_grad


def test_an_evaluation_of_the_users_own_is_named():
    trainer = healthy()
    assert own_evaluation(trainer) == []
    subclassed(trainer, evaluate=lambda self: {})
    assert own_evaluation(trainer) == ["UsersTrainer.evaluate"]
