"""Models that lack what most have: adapters, embeddings, inputs of a decoder."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from trainsanity.measurements.model.adapter_base import _embeddings
from trainsanity.measurements.model.forward import predicting
from trainsanity.measurements.model.merging import _first_rows
from trainsanity.pipeline import active_adapters

SMALL = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}


def bert() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=8)
    )  # fmt: skip


@pytest.mark.parametrize("model", [bert(), torch.nn.Linear(2, 2)])
def test_a_model_without_adapters_has_none_that_are_active(model: torch.nn.Module) -> None:
    assert active_adapters(model) == []


def test_a_model_that_shows_no_embeddings_has_none() -> None:
    assert _embeddings(torch.nn.Linear(2, 2)) == (None, None)
    inputs, outputs = _embeddings(bert())
    assert (inputs.num_embeddings, outputs.out_features) == (20, 20)


def test_a_decoder_is_given_the_targets_before_each_unless_the_batch_has_them() -> None:
    model = T5ForConditionalGeneration(T5Config(**SMALL, decoder_start_token_id=0)).eval()
    ids, labels = torch.tensor([[3, 4, 5]]), torch.tensor([[6, 7, -100]])
    whole = model(input_ids=ids, labels=labels).logits
    inputs = predicting(model, {"input_ids": ids, "labels": labels})
    assert "labels" not in inputs
    assert torch.equal(model(**inputs).logits, whole)
    given = {"input_ids": ids, "decoder_input_ids": ids, "labels": labels}
    assert predicting(model, given)["decoder_input_ids"] is ids
    # Labels of classes are no targets of a decoder.
    assert set(predicting(model, {"input_ids": ids, "labels": torch.tensor([1])})) == {"input_ids"}
    # Others have no decoder.
    assert set(predicting(bert(), {"input_ids": ids, "labels": labels})) == {"input_ids"}


def test_the_first_rows_of_inputs_that_go_by_row() -> None:
    rows = {"input_ids": torch.ones(5, 3), "attention_mask": torch.ones(5, 3)}
    assert {name: len(value) for name, value in _first_rows(rows).items()} == {
        "input_ids": 2,
        "attention_mask": 2,
    }
    packed = {"input_ids": torch.ones(1, 9), "cu_seq_lens_q": torch.ones(4)}
    assert _first_rows(packed) is packed
