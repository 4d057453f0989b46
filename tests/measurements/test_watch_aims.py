"""Which ids a model's outputs are held against, by their shapes; scores of classes name none."""

from __future__ import annotations

import torch
from torch.nn import functional

from trainsanity.measurements.step.pull import Pulls, given_ids, watch_aims

IDS = torch.tensor([[7, 3, 9, 12, 5, 8], [2, 11, 4, 10, 6, 1]])


def watched(width: int, classes: int) -> Pulls:
    pulls = Pulls()
    logits = torch.randn(2, width, classes, requires_grad=True)
    watch_aims(pulls, logits, [IDS, torch.ones_like(IDS)])
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, -width + 1 :].flatten() % classes,
                             reduction="sum").backward()  # fmt: skip
    return pulls


def test_tags_of_tokens_are_no_tokens():
    pulls = watched(6, 3)
    assert pulls.rises == []
    assert pulls.aims.shape == (2, 6)


def test_labels_beside_embeddings_are_no_ids():
    pulls, labels = Pulls(), IDS.clone()
    labels[:, :2] = -100
    logits = torch.randn(2, 6, 20, requires_grad=True)
    watch_aims(pulls, logits, [torch.randn(2, 6, 8), labels])
    functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    assert pulls.rises == []


def test_outputs_for_the_last_tokens_alone_raise_those():
    pulls = watched(4, 20)
    assert pulls.aims.shape == ()
    assert len(pulls.rises) == 1
    assert pulls.rises[0].raised.tolist() == [3, 3]


def test_ids_are_those_of_the_outputs_shape():
    source = torch.arange(2, 22).reshape(2, 10).flip(1)
    assert given_ids([source, IDS], (2, 6)) is IDS
    assert given_ids([source, IDS], (2, 5)) is None
    assert given_ids([torch.ones_like(IDS), IDS], (2, 5), longer=True) is IDS
    assert given_ids([torch.arange(6).expand(2, 6), IDS.float()], (2, 6)) is None
