"""Weights of classes beside the classes' counts: computed, turned round, or thought of."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import pytest
import torch

from trainsanity import Pipeline, Severity
from trainsanity.checks.loss.class_weights_fit import class_weights_fit
from trainsanity.types import Finding

COUNTS = [41, 83, 157, 60]


def severities(weights, labels, function="cross_entropy"):
    """Return what the check says of weights that torch's loss was given, as float32."""
    rows = datasets.Dataset.from_dict({"input_ids": [[k] for k in range(len(labels))],
                                       "labels": labels})  # fmt: skip
    call = SimpleNamespace(
        function=function, weights=torch.tensor(weights).tolist(), where="loss.py:1"
    )
    told = class_weights_fit(
        Pipeline(torch.nn.Linear(2, 2), train_dataset=rows), SimpleNamespace(loss_calls=[call])
    )
    return [one.severity for one in told if isinstance(one, Finding)]


def classes(counts):
    return [k for k, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "weights", "expected"),
    [
        (COUNTS, [float(n) for n in COUNTS], [Severity.FAILURE]),
        (COUNTS, [n / sum(COUNTS) for n in COUNTS], [Severity.FAILURE]),
        (COUNTS, [n**0.5 for n in COUNTS], [Severity.FAILURE]),
        (COUNTS, [1 / n for n in COUNTS], []),
        ([40, 80, 160], [1.0, 2.0, 4.0], [Severity.FAILURE]),
        # Costs of a mistake, which happen to rise with the counts.
        ([61, 178], [1.0, 3.0], [Severity.WARNING]),
        ([42, 60, 90, 140], [1.0, 1.2, 1.5, 2.0], [Severity.WARNING]),
        ([150, 50, 40], [0.2, 0.1, 0.08], [Severity.WARNING]),
    ],
)
def test_round_numbers_are_costs_if_they_are_no_counts(counts, weights, expected):
    assert severities(weights, classes(counts)) == expected


def several(shares, rows=100):
    return [[float(k < share * rows) for share in shares] for k in range(rows)]


@pytest.mark.parametrize(
    ("shares", "weight", "expected"),
    [
        ([0.2, 0.6], lambda share: share / (1 - share), [Severity.FAILURE]),
        ([0.2, 0.6], lambda share: (1 - share) / share, []),
        # What is in most rows may not be missed.
        ([0.6, 0.6], lambda share: 1.5, [Severity.WARNING]),
        ([0.2, 0.2], lambda share: 0.25, [Severity.FAILURE]),
    ],
)
def test_what_is_rare_weighs_less_by_mistake(shares, weight, expected):
    weights = [weight(share) for share in shares]
    function = "binary_cross_entropy_with_logits"
    assert severities(weights, several(shares), function) == expected
