"""The loss of logits that say nothing about the labels, against the average over all labels."""

from __future__ import annotations

import itertools

import pytest
import torch

from trainsanity.maths.uninformed import uninformed

torch.manual_seed(0)


def test_it_is_the_mean_over_all_labels_with_these_shares():
    logits, shares = (
        torch.randn(2, 3, dtype=torch.float64),
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    )
    losses, gaps, chances = [], [], []
    for pair in itertools.product(range(3), repeat=2):
        labels = torch.tensor(pair)
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
        gaps.append(uninformed(logits, labels, shares).gap)
        chances.append(float(shares[labels].prod()))
    weights = torch.tensor(chances, dtype=torch.float64)
    found = uninformed(logits, torch.tensor([0, 0]), shares)
    assert found.loss == pytest.approx(float(weights @ torch.tensor(losses, dtype=torch.float64)))
    values = torch.tensor(gaps, dtype=torch.float64)
    assert float(weights @ values) == pytest.approx(0, abs=1e-12)
    assert found.error == pytest.approx(float((weights @ values**2) ** 0.5))


def test_the_gap_is_what_the_labels_cost_above_it():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 4, (6,))
    found = uninformed(logits, labels, torch.full((4,), 0.25).double())
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert found.loss + found.gap == pytest.approx(loss)
