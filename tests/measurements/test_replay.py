"""Gradient checkpointing, checkpointed_in for a while."""

from __future__ import annotations

import torch

from trainsanity.measurements.step.checkpointing import checkpointed, checkpointed_in


class Layer(torch.nn.Module):
    gradient_checkpointing = False


def test_checkpointing_is_switched_in_every_layer_and_put_back():
    never, on, bare = Layer(), Layer(), Layer()
    on.gradient_checkpointing, on._gradient_checkpointing_func = True, "theirs"
    bare.gradient_checkpointing = True
    model = torch.nn.Sequential(never, on, bare, torch.nn.Linear(1, 1))

    def state():
        names = ("gradient_checkpointing", "_gradient_checkpointing_func")
        return [{name: vars(m)[name] for name in names if name in vars(m)} for m in model]

    before = state()
    used = checkpointed(model)
    assert used == [(on, "theirs"), (bare, None)]
    with checkpointed_in(model, []):
        assert checkpointed(model) == []
        with checkpointed_in(model, [(never, "ours")]):
            assert checkpointed(model) == [(never, "ours")]
        assert checkpointed(model) == []
        with checkpointed_in(model, used):
            assert checkpointed(model) == used
    assert state() == before
    assert not hasattr(model[3], "gradient_checkpointing")
