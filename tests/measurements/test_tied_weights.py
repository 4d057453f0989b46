"""Which models hold two tensors where their config ties one."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, MarianConfig, MarianMTModel

from trainsanity import Pipeline
from trainsanity.engine.session import Session
from trainsanity.types import Skip

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def apart(model):
    return Session.of(Pipeline(model)).measurements.get("tied_weights").apart


def language_model(**settings):
    return BertForMaskedLM(BertConfig(vocab_size=20, intermediate_size=8, **SMALL, **settings))


def test_a_head_of_its_own_under_a_config_that_ties():
    model = language_model()
    assert not apart(model)
    decoder = model.cls.predictions.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    assert apart(model) == "each has a tensor of its own"
    model.requires_grad_(False)
    assert not apart(model)


def test_a_config_that_ties_nothing():
    with pytest.raises(Skip, match="the config ties no weights"):
        apart(language_model(tie_word_embeddings=False))


def test_a_head_that_is_the_decoders_embedding():
    config = MarianConfig(
        vocab_size=20, decoder_vocab_size=24, share_encoder_decoder_embeddings=False, d_model=8,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = MarianMTModel(config)
    assert not apart(model)
    same = MarianMTModel(MarianConfig(**{**config.to_dict(), "decoder_vocab_size": 20}))
    assert same.get_input_embeddings().weight.shape == same.lm_head.weight.shape
    assert not apart(same)
