"""Settings of the forward beside those of the checkpoint's config.json."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainsanity.measurements.model.config_file import config_file
from trainsanity.types import Skip

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("checkpoint")
    LlamaForCausalLM(LlamaConfig(**SIZES, rms_norm_eps=1e-5)).save_pretrained(path)
    return str(path)


def compared(folder, **changed):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**SIZES, "rms_norm_eps": 1e-5, **changed})
    model = LlamaForCausalLM(config)
    model.config._name_or_path = folder
    return config_file(SimpleNamespace(model=model)).other


def in_the_rope(**rope):
    """As this transformers' config names a rope."""
    import inspect

    from transformers import LlamaConfig

    if "rope_parameters" in inspect.signature(LlamaConfig).parameters:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, **rope}}
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {"rope_theta": rope.get("rope_theta", 10_000.0), "rope_scaling": scaling or None}


def test_what_fits_differs_in_nothing(folder):
    assert compared(folder) == []


def test_what_no_weight_shows_is_found(folder):
    (eps,) = compared(folder, rms_norm_eps=1e-3)
    assert (eps.name, eps.here, eps.there, eps.meant) == ("rms_norm_eps", 1e-3, 1e-5, False)
    (activation,) = compared(folder, hidden_act="gelu")
    assert activation.name == "hidden_act"
    (base,) = compared(folder, **in_the_rope(rope_theta=500_000.0))
    assert base.name.endswith("rope_theta")
    assert not base.meant


def test_positions_that_are_extended_on_purpose_are_meant(folder):
    longer = in_the_rope(rope_theta=500_000.0)
    found = compared(folder, max_position_embeddings=256, **longer)
    assert found
    assert all(one.meant for one in found)
    scaled = compared(folder, **in_the_rope(rope_type="linear", factor=4.0))
    assert scaled
    assert all(one.meant for one in scaled)


def test_sizes_of_the_vocabulary_and_dropout_are_no_settings_of_the_forward(folder):
    assert compared(folder, vocab_size=40, attention_dropout=0.1, use_cache=False) == []


def test_a_folder_that_is_gone_is_skipped(folder):
    with pytest.raises(Skip, match="on this machine"):
        compared(folder + "-gone")
