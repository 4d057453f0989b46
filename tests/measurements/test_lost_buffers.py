"""Buffers of a model's own, and what `from_pretrained` makes of them."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import BertConfig, BertModel, BertPreTrainedModel

from trainsanity import Pipeline
from trainsanity.engine.session import Session

WEIGHTS = [0.5, 1.0, 4.0]


class Weighted(BertPreTrainedModel):
    """Keeps class weights for its loss, a table, and a counter that begins with zero."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.register_buffer("class_weights", torch.tensor(WEIGHTS))
        self.register_buffer("places", torch.arange(1, 5), persistent=False)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool), persistent=False)
        self.post_init()


class Remembers(Weighted):
    """Writes them where transformers asks for it, too."""

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Weighted):
            from transformers import initialization

            initialization.copy_(module.class_weights, torch.tensor(WEIGHTS))
            initialization.copy_(module.places, torch.arange(1, 5))
            initialization.zeros_(module.seen)
            initialization.ones_(module.mask)


@pytest.fixture
def loaded(tmp_path):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3,
        intermediate_size=8,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    return lambda kind: kind.from_pretrained(tmp_path)


def asked(model):
    return Session.of(Pipeline(model)).measurements.get("lost_buffers")


needs_v5 = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5,
    reason="before transformers 5 what __init__ wrote was kept",
)


@needs_v5
def test_what_init_wrote_is_lost(loaded):
    model = loaded(Weighted)
    with torch.no_grad():  # what memory holds is another thing each time
        model.class_weights.zero_()
        model.places.fill_(140_000_000_000_000)
        model.mask.zero_()
    found = asked(model)
    assert [(one.name, one.holds, one.given) for one in found.lost] == [
        ("class_weights", "zeros", "0.5 to 4"),
        ("places", "values of up to 1.4e+14", "1 to 4"),
        ("mask", "zeros", "1"),
    ]


@needs_v5
def test_addresses_read_as_fractions(loaded):
    model = loaded(Weighted)
    with torch.no_grad():
        model.class_weights.fill_(4.6e-41)
        model.places.copy_(torch.arange(1, 5))
        model.mask.fill_(True)
    assert [(one.name, one.holds) for one in asked(model).lost] == [
        ("class_weights", "values below 1e-20")
    ]


@needs_v5
def test_what_the_model_writes_itself(loaded):
    found = asked(loaded(Remembers))
    assert (found.lost, found.asked > 2) == ([], True)


@needs_v5
def test_what_was_set_after_loading(loaded):
    model = loaded(Weighted)
    model.class_weights = torch.tensor([1.0, 2.0, 3.0])
    model.places = torch.arange(2, 6)
    model.mask = torch.tensor([True, False])
    assert asked(model).lost == []


@needs_v5
def test_a_model_that_cannot_be_built_again(loaded):
    model = loaded(Weighted)
    with torch.no_grad():
        model.class_weights.zero_()
        model.mask.fill_(True)  # memory may hold bytes that are neither of the two
    model.config.num_attention_heads = 3
    assert asked(model).asked is None


@needs_v5
def test_buffers_that_the_checkpoint_has(loaded, tmp_path):
    model = loaded(Remembers)
    with torch.no_grad():
        model.class_weights.zero_()
    model.save_pretrained(tmp_path / "trained")
    again = Remembers.from_pretrained(tmp_path / "trained")
    assert not again.class_weights.any()
    assert asked(again).lost == []


def test_a_model_without_a_checkpoint():
    model = torch.nn.BatchNorm1d(3)
    assert asked(model).asked is None


@needs_v5
def test_ordinary_buffers_cost_no_second_model(loaded, monkeypatch):
    model = loaded(Remembers)
    monkeypatch.setattr(Remembers, "__init__", None)
    with torch.no_grad():
        model.seen.fill_(1)
        model.mask.fill_(True)
        model.bert.embeddings.token_type_ids.fill_(1)
    assert asked(model).lost == []
    assert asked(model).asked > 2
