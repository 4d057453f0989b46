"""What the code of a module's forward says of its head and its embedding, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainsanity.forwards import classifier, token_embedding, token_model


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(4, 3))
        self.loss = nn.CrossEntropyLoss()
        self.weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = None
        if labels is not None:
            loss = self.loss(logits, labels)
        return {"loss": loss, "logits": logits}


def test_a_plain_classifier_shows_its_head() -> None:
    found = classifier(Plain())
    assert found is not None
    assert found.head == "head.1"


class Called(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        return dict(loss=nn.CrossEntropyLoss()(logits, target=labels), logits=logits)  # noqa: C408


def test_a_head_is_found_behind_keywords_and_a_loss_made_on_the_spot() -> None:
    found = classifier(Called())
    assert found is not None
    assert found.head == "head.1"


class Weighted(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        return {"loss": self.weighted(logits, labels), "logits": logits}


class Smoothed(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        return {"loss": cross_entropy(logits, labels, label_smoothing=0.1), "logits": logits}


class WithMargin(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        pushed = logits * 30
        return {"loss": cross_entropy(pushed, labels), "logits": logits}


class ChangedAfterwards(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = cross_entropy(logits, labels)
        logits = logits.softmax(-1)
        return {"loss": loss, "logits": logits}


class WithPenalty(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = cross_entropy(logits, labels)
        loss = loss + logits.square().mean()
        return {"loss": loss, "logits": logits}


class TwoHeads(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(input_ids).mean(1))
        loss = cross_entropy(logits, labels) + cross_entropy(logits.flip(0), labels)
        return {"loss": loss, "logits": logits}


class OtherLabels(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        labels = labels % 3
        logits = self.head(self.embedding(input_ids).mean(1))
        return {"loss": cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(
    "cls", [Weighted, Smoothed, WithMargin, ChangedAfterwards, WithPenalty, TwoHeads, OtherLabels]
)
def test_another_loss_is_no_plain_classifier(cls: type[nn.Module]) -> None:
    assert classifier(cls()) is None


def test_the_embedding_is_the_one_that_the_ids_are_given_to() -> None:
    model = Plain()
    assert token_embedding(model) is model.embedding


class Hashed(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        del labels
        return self.embedding(input_ids % 10)


class Overwritten(Plain):
    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        del labels
        input_ids = input_ids % 10
        return self.embedding(input_ids)


@pytest.mark.parametrize("cls", [Hashed, Overwritten])
def test_ids_that_are_changed_first_are_given_to_no_embedding(cls: type[nn.Module]) -> None:
    assert token_embedding(cls()) is None


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(5, 4)
        self.words = nn.Sequential(nn.Embedding(10, 4), nn.LayerNorm(4))

    def forward(self, ids: Any, places: Any) -> Any:
        return self.words(ids) + self.places(places)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, input_ids: Any) -> Any:
        places = torch.arange(input_ids.shape[1])
        return self.encoder(input_ids, places)


def test_ids_are_followed_into_the_parts_that_are_given_them() -> None:
    model = Around()
    assert token_embedding(model) is model.encoder.words[0]


def test_a_model_that_takes_ids_is_asked_itself() -> None:
    model = Plain()
    assert token_model(model) is model


class AroundAModel(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=4,
        )  # fmt: skip
        self.parts = nn.ModuleList(BertModel(config) for _ in range(count))

    def forward(self, features: Any) -> Any:
        return [part(**features) for part in self.parts]


class Handing(AroundAModel):
    def forward(self, **features: Any) -> Any:
        return [part(**features) for part in self.parts]


def test_a_model_that_hands_its_arguments_on_is_asked_itself() -> None:
    model = Handing(1)
    assert token_model(model) is model


def test_the_only_model_inside_is_asked_and_of_two_none_is() -> None:
    one, two = AroundAModel(1), AroundAModel(2)
    assert token_model(one) is one.parts[0]
    assert token_model(two) is two
