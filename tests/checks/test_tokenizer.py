"""What the tokenizer checks say of ids and rows that no fault happens to show."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainsanity.engine.registry import registry
from trainsanity.maths.alignment import Placement
from trainsanity.measurements.batches.batch import Batch
from trainsanity.types import Finding, Severity

EOS = 151_645


def test_the_first_id_that_is_no_special_token_is_reported():
    special_tokens = SimpleNamespace(
        known={EOS},
        ids={"eos_token_id": {"tokenizer": EOS}, "bos_token_id": {"tokenizer": None}},
        generates=True,
        named={"model.generation_config": {"eos_token_id": [EOS, 7, 8]}},
    )
    finding, measured = (
        registry().get("tokenizer.special_ids_agree").fn(special_tokens=special_tokens)
    )
    assert finding.observed == 7
    assert finding.headline.startswith("eos_token_id is 7 in model.generation_config")
    assert measured.message.startswith("1 of 3 ids of model.generation_config")


@pytest.mark.parametrize(
    ("name", "own", "generates", "severity"),
    [
        ("bos_token_id", None, False, Severity.WARNING),
        ("bos_token_id", None, True, Severity.FAILURE),
        ("bos_token_id", EOS, False, Severity.FAILURE),
        ("eos_token_id", EOS, False, Severity.FAILURE),
        ("pad_token_id", None, False, Severity.WARNING),
        ("pad_token_id", None, True, Severity.FAILURE),
        ("pad_token_id", EOS, False, Severity.FAILURE),
    ],
)
def test_an_id_that_nothing_uses_is_a_warning(name, own, generates, severity):
    special_tokens = SimpleNamespace(
        known={EOS},
        ids={"eos_token_id": {"tokenizer": EOS}, name: {"tokenizer": own}},
        generates=generates,
        named={"model.config": {name: 1000}},
    )
    finding, _ = registry().get("tokenizer.special_ids_agree").fn(special_tokens=special_tokens)
    assert finding.severity is severity


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("stored", [None, [1, 1, 1], [0, 1, 1], [1, 1, 0]], ids=str)
@pytest.mark.parametrize("start", [0, 2])
def test_the_side_of_the_padding_by_the_batch_and_by_the_rows_masks(side, stored, start):
    row = {"input_ids": [5, 6, 7]} | ({"attention_mask": stored} if stored else {})
    inputs = {"input_ids": torch.full((1, 5), 5)}
    micro = SimpleNamespace(
        rows=[row], inputs=inputs, of_tokens=True, placements=[Placement(start, 3, 5)]
    )
    fn = registry().get("tokenizer.padding_side").fn
    found = fn(
        pipeline=SimpleNamespace(tokenizer=SimpleNamespace(padding_side=side)), batch=Batch([micro])
    )
    padded = {"left": start > 0 or stored == [0, 1, 1], "right": start < 2 or stored == [1, 1, 0]}
    other = "right" if side == "left" else "left"
    assert any(isinstance(one, Finding) for one in found) is padded[other]
