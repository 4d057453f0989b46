"""Ids of texts that the collator tokenizes: outside of the embedding, begun twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Trainer

from fixtures.field._encoders import arguments, words_tokenizer
from trainsanity import Pipeline
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status


def _texts_of(tokenize: Any) -> Pipeline:
    """Return a Trainer whose rows are texts, which its collator tokenizes."""

    class Sides(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(10, 4)
            self.head = torch.nn.Linear(4, 1)

        def get_input_embeddings(self) -> Any:
            return self.embedding

        def forward(self, anchor_input_ids: Any, anchor_attention_mask: Any) -> Any:
            del anchor_attention_mask
            return {
                "loss": self.head(self.embedding(anchor_input_ids % 10).mean(1)).square().mean()
            }

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [tokenize(row["anchor"]) for row in rows]
        width = max(map(len, ids))
        return {
            "anchor_input_ids": torch.tensor([one + [0] * (width - len(one)) for one in ids]),
            "anchor_attention_mask": torch.tensor(
                [[1] * len(one) + [0] * (width - len(one)) for one in ids]
            ),
        }

    tokenizer = words_tokenizer()
    args = arguments(remove_unused_columns=False, max_steps=2)
    rows = Dataset.from_dict({"anchor": [f"w{k}" for k in range(16)]})
    return Pipeline.from_trainer(
        Trainer(
            Sides(), args, data_collator=collate, train_dataset=rows, processing_class=tokenizer
        )
    )


CLS = words_tokenizer().cls_token_id


@pytest.mark.parametrize(
    ("tokenize", "wrong"),
    [
        (lambda text: [CLS, 5, len(text)], None),
        (lambda text: [CLS, CLS, len(text)], "tokenizer.bos_once"),
        (lambda text: [CLS, 5, 10 + len(text)], "tokenizer.ids_in_embedding"),
        # Padding lies outside of the texts.
        (lambda text: [CLS, *[4] * len(text)], None),
    ],
)
def test_texts_that_the_collator_tokenizes_are_asked_for_their_ids(tokenize, wrong):
    names = ["tokenizer.bos_once", "tokenizer.ids_in_embedding"]
    report = run(_texts_of(tokenize), registry().select(names))
    for result in report.results:
        expected = Status.FAIL if result.check.name == wrong else Status.PASS
        assert result.status is expected, (result.reason, result.findings)
