"""Rows beside others, asked of models that are no classifiers of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from trainsanity.engine.session import Session
from trainsanity.pipeline import Pipeline


class Needs(nn.Module):
    """Makes its loss in any case, and raises without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
        made = self.layer(x).squeeze(-1)
        return {"loss": nn.functional.smooth_l1_loss(made, labels.float()), "logits": made}


class Mixes(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
        made = self.layer(x)
        made = made - made.mean(0)
        loss = None if labels is None else nn.functional.cross_entropy(made, labels)
        return {"loss": loss, "logits": made}


def asked(model: nn.Module, tmp_path: Any) -> Any:
    torch.manual_seed(0)
    rows = [{"x": torch.randn(3), "labels": k % 2} for k in range(16)]
    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none"
    )
    trainer = Trainer(model, args, train_dataset=rows)
    return Session.of(Pipeline.from_trainer(trainer)).measurements.get("companions")


def test_a_model_that_cannot_go_without_labels_is_asked_with_them(tmp_path: Any) -> None:
    found = asked(Needs(), tmp_path)
    assert found.most_moved[1] <= found.allowed


def test_a_row_that_its_neighbours_move_is_seen(tmp_path: Any) -> None:
    found = asked(Mixes(), tmp_path)
    assert found.most_moved[1] > 100 * found.allowed
