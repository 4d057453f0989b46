"""Labels in other orders of rows."""

from __future__ import annotations

import pytest
import torch

from trainsanity.measurements.step.rearranged import exchanged


def pairs(labels: torch.Tensor) -> list[list[bool]]:
    """Which rows have the same label: all that a loss of triplets asks."""
    return (labels[:, None] == labels).tolist()


@pytest.mark.parametrize("labels", [[5, 5, 1, 1], [0, 0, 0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]])
def test_one_order_at_least_changes_which_rows_are_alike(labels: list[int]) -> None:
    given = torch.tensor(labels)
    found = exchanged(given)
    assert all(sorted(one.tolist()) == sorted(labels) and one.tolist() != labels for one in found)
    assert any(pairs(one) != pairs(given) for one in found)


def test_labels_of_tokens_stay_where_they_are_counted() -> None:
    given = torch.tensor([[-100, 3, 4], [-100, -100, 5]])
    (found,) = exchanged(given)
    assert found.tolist() == [[-100, 5, 4], [-100, -100, 3]]
    assert exchanged(torch.tensor([[-100, 3], [-100, -100]])) == []


def test_there_may_be_nothing_to_exchange() -> None:
    assert exchanged(torch.tensor([2, 2, 2])) == []
    assert exchanged(torch.tensor([2])) == []
    assert exchanged(None) == []
