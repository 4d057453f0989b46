"""An effect of 1e-4 of the logits, in each layer of three families in bfloat16, does not hide.

bfloat16 rounds at 4e-3: in the dtype that is trained none of these could be told from noise.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from fixtures.controls.models import EARLY, SHORT, other_family
from fixtures.faults import healthy
from trainsanity.engine.session import Session
from trainsanity.maths.tolerances import largest
from trainsanity.measurements.model.probes import difference
from trainsanity.pipeline import Pipeline
from trainsanity.testing import run_one
from trainsanity.types import Status

LAYERS = 5
EFFECT = 1e-4
"""Of the largest logit."""

FAMILIES = {
    "bert": {**SHORT, "intermediate_size": 128},
    "gpt2": {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "vocab_size": 151_936},
    "llama": {**SHORT, **EARLY},
}


@pytest.fixture(scope="module", params=FAMILIES)
def trainer(request):
    """A classifier of five layers in bfloat16."""
    geometry = dict(FAMILIES[request.param])
    if "num_hidden_layers" in geometry:
        geometry["num_hidden_layers"] = LAYERS
    small = healthy(rows=16, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    made = other_family(small, request.param, **geometry)
    made.model.bfloat16()
    return made


def layers_of(model):
    """The model's layers, as it repeats them."""
    lists = [one for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    return next(one for one in lists if len(one) == LAYERS)


def neighbours(states):
    """The mean of all rows, the same for each."""
    return states.mean(0, keepdim=True).expand_as(states)


def later(states):
    """The state of the next token."""
    return torch.nn.functional.pad(states[:, 1:], (0, 0, 0, 1))


def columns(states):
    """The mean over all columns of a row, padding among them."""
    return states.mean(1, keepdim=True).expand_as(states)


@contextmanager
def planted(layer, what, strength):
    """Let something that a state may not know leak into a layer's output."""

    def leak(_module, _inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        states = states + strength * what(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = layer.register_forward_hook(leak)
    try:
        yield
    finally:
        handle.remove()


def rows_effect(pipeline):
    """What other rows change in the logits, relative to the largest."""
    found = Session.of(pipeline).measurements.get("companions")
    return largest(found.beside_copies) / found.size


def padding_effect(pipeline):
    """What other ids under mask 0 change in the logits, relative to the largest."""
    found = Session.of(pipeline).measurements.get("probes")
    size = largest(float(one.abs().max()) for one in found.own.logits)
    return difference(found.refilled.logits, found.own.logits) / size


def later_effect(pipeline):
    """What the next token changes in the state that the head reads, if that is not the last."""
    found = Session.of(pipeline).measurements.get("probes")
    moved = [
        float((a[-2] - b[-2]).norm() / b[-2].norm())
        for a, b in zip(found.changed.states, found.own.states, strict=True)
    ]
    return largest(moved)


LEAKS = {
    "model.rows_are_independent": (neighbours, rows_effect),
    "model.causal": (later, later_effect),
    "model.mask_is_obeyed": (columns, padding_effect),
}
"""By the check that has to find it: what leaks, and how its effect is measured."""

APPLIES = {
    "bert": ("model.rows_are_independent", "model.mask_is_obeyed"),
    "gpt2": ("model.rows_are_independent", "model.causal"),
    "llama": ("model.rows_are_independent", "model.causal"),
}
"""A decoder's padding on the right is seen by nobody who looks back alone."""


@pytest.mark.matrix
@pytest.mark.parametrize("name", LEAKS)
def test_the_healthy_model_passes(trainer, name):
    if name in APPLIES[trainer.model.config.model_type]:
        assert run_one(name, Pipeline.from_trainer(trainer)).status is Status.PASS


@pytest.mark.parametrize("layer", [pytest.param(k, marks=() if k == 2 else pytest.mark.matrix)
                                   for k in range(LAYERS)])  # fmt: skip
@pytest.mark.parametrize("name", LEAKS)
def test_a_small_leak_is_found_by_the_check_that_is_right(trainer, name, layer):
    if name not in APPLIES[trainer.model.config.model_type]:
        pytest.skip("nothing of this kind in this family")
    what, effect = LEAKS[name]
    module = layers_of(trainer.model)[layer]
    with planted(module, what, 1e-2):
        strength = 1e-2 * EFFECT / effect(Pipeline.from_trainer(trainer))
    with planted(module, what, strength):
        pipeline = Pipeline.from_trainer(trainer)
        # Small enough for it to be linear.
        assert effect(pipeline) == pytest.approx(EFFECT, rel=0.5)
        result = run_one(name, pipeline)
    assert result.status is Status.FAIL, result
