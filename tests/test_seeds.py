"""The program that judges healthy pipelines under seeds: what a seed moves, and its table."""

from __future__ import annotations

import pytest
import torch

from fixtures.controls import all_controls
from tests import seeds

CONTROLS = {control.id: control for control in all_controls()}


def test_a_seed_moves_weights_texts_lengths_and_order(monkeypatch):
    from fixtures import corpus
    from fixtures.pipelines import build

    monkeypatch.setattr(corpus, "rows", corpus.rows)  # put back afterwards
    monkeypatch.setattr(build, "_TOKENIZED", {})
    plain = CONTROLS["bert"].build()
    own = torch.manual_seed  # what is imported meanwhile may wrap it
    monkeypatch.setattr(build, "_TOKENIZED", {})
    seeds.with_rows(3)
    moved = seeds.moved(3, CONTROLS["bert"].build)
    assert torch.manual_seed is own
    assert plain.args.seed != moved.args.seed
    names = dict(plain.model.named_parameters())
    assert any(not torch.equal(p, names[name]) for name, p in moved.model.named_parameters())
    texts, others = plain.train_dataset["text"][:], moved.train_dataset["text"][:]
    assert len(texts) == len(others)
    assert not set(texts) & set(others)
    assert sorted(map(len, plain.train_dataset["input_ids"])) != sorted(
        map(len, moved.train_dataset["input_ids"])
    )


@pytest.mark.filterwarnings("ignore")
def test_there_are_at_least_120_controls_with_the_fields():
    pytest.importorskip("trl")
    pytest.importorskip("transformers", minversion="5")
    assert len(seeds.subjects()) >= 120


def test_the_interval_of_none_in_many_is_not_zero():
    low, high = seeds.interval(0, 2_400)
    assert low == 0
    assert 0.001 < high < 0.002  # about four in so many
    assert seeds.interval(0, 0) == (0.0, 1.0)
    low, high = seeds.interval(50, 100)
    assert (low, high) == (pytest.approx(0.404, abs=1e-3), pytest.approx(0.596, abs=1e-3))


def test_the_table_counts_the_last_judgement_of_each():
    red = {"model.causal": {"status": "fail", "text": "it looks ahead"}}
    rows = [
        {"name": "a", "seed": 1, "red": red},
        {"name": "a", "seed": 1, "red": {}},
        {"name": "b", "seed": 1, "red": red},
        {"name": "b", "seed": 2, "red": red},
    ]
    made = seeds.table(seeds.counted(rows))
    assert "| 2 | 2 | 3 | 2 | 66.67% |" in made
    assert "| model.causal | b | 2 |" in made
