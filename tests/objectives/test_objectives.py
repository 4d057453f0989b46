"""The reference losses against torch's and transformers' own, and their derivatives."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_pt_utils import LabelSmoother

from trainsanity.engine.session import objective_of
from trainsanity.objectives.base import IGNORED, MULTI_LABEL, SINGLE_LABEL
from trainsanity.objectives.causal_lm import CausalLM
from trainsanity.objectives.classification import MultiLabel, Regression, SingleLabel
from trainsanity.objectives.tokens import TokenClassification
from trainsanity.pipeline import Pipeline

torch.manual_seed(0)
LOGITS = torch.randn(7, 11, dtype=torch.float64) * 3
CLASSES = torch.randint(0, 11, (7,))
PER_TOKEN = torch.randn(3, 5, 11, dtype=torch.float64)
TOKEN_LABELS = torch.randint(0, 11, (3, 5))
TOKEN_LABELS[0, 3:] = TOKEN_LABELS[2, 0] = IGNORED

functional = torch.nn.functional
CASES = {
    SingleLabel: (LOGITS, CLASSES, functional.cross_entropy(LOGITS, CLASSES)),
    MultiLabel: (
        LOGITS,
        (LOGITS > 1).double(),
        functional.binary_cross_entropy_with_logits(LOGITS, (LOGITS > 1).double()),
    ),
    Regression: (LOGITS, -LOGITS, functional.mse_loss(LOGITS, -LOGITS)),
    TokenClassification: (
        PER_TOKEN,
        TOKEN_LABELS,
        functional.cross_entropy(PER_TOKEN.flatten(0, 1), TOKEN_LABELS.flatten()),
    ),
    CausalLM: (PER_TOKEN, TOKEN_LABELS, ForCausalLMLoss(PER_TOKEN, TOKEN_LABELS, 11)),
}


def losses(objective, values, labels):
    return objective.losses(objective.items(values, labels), objective.targets(labels))


@pytest.mark.parametrize("kind", CASES)
def test_the_mean_is_the_loss(kind):
    values, labels, expected = CASES[kind]
    mean = losses(kind(), values, labels).mean()
    # transformers computes a language model's loss in float32.
    torch.testing.assert_close(mean, expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", CASES)
def test_the_residual_is_the_derivative(kind, smoothing):
    values, labels, _ = CASES[kind]
    objective = kind(smoothing)
    logits = objective.items(values, labels).clone().requires_grad_()
    objective.losses(logits, objective.targets(labels)).sum().backward()
    torch.testing.assert_close(
        objective.residual(logits.detach(), objective.targets(labels)), logits.grad
    )


@pytest.mark.parametrize("kind", [SingleLabel, TokenClassification])
def test_label_smoothing_is_the_trainers(kind):
    values, labels, _ = CASES[kind]
    expected = LabelSmoother(epsilon=0.3)({"logits": values}, labels)
    mean = losses(kind(0.3), values, labels).mean()
    torch.testing.assert_close(mean, expected.double(), rtol=1e-6, atol=1e-6)


def test_regression_on_one_output():
    z, y = LOGITS[:, :1], LOGITS[:, 1]
    mean = losses(Regression(), z, y).mean()
    torch.testing.assert_close(mean, functional.mse_loss(z.squeeze(), y))


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        torch.rand(1)  # as one that shuffles does
        yield from self.rows


FORMS = {
    "lists": lambda data: data,
    "torch": lambda data: data.with_format("torch"),
    "numpy": lambda data: data.with_format("numpy"),
    "stream": lambda data: data.to_iterable_dataset(),
    "torch stream": lambda data: Stream(data.to_list()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "name"),
    [([[0.0, 1.0, 1.0]] * 8, MULTI_LABEL), ([0, 1] * 4, SINGLE_LABEL), ([0.5] * 8, MULTI_LABEL)],
    ids=["several", "one", "float"],
)
def test_the_objective_is_guessed_from_the_first_row(form, labels, name):
    data = Dataset.from_dict({"input_ids": [[1, 2]] * 8, "labels": labels})
    config = BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, num_labels=3)
    model = BertForSequenceClassification(config)
    before = torch.get_rng_state()
    assert objective_of(Pipeline(model, train_dataset=FORMS[form](data))).name == name
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_taken_as_they_are(dtype):
    low = LOGITS.to(dtype)
    assert SingleLabel().losses(low, CLASSES).dtype is torch.float64
    torch.testing.assert_close(
        SingleLabel().losses(low, CLASSES),
        SingleLabel().losses(low.double(), CLASSES),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torchs_own_cross_entropy_is_the_same_but_for_its_rounding(smoothing):
    task = SingleLabel(label_smoothing=smoothing)
    ours, theirs = task.item_losses(LOGITS, CLASSES), task.library_losses(LOGITS, CLASSES)
    torch.testing.assert_close(ours, theirs)


def test_torchs_own_cross_entropy_rounds_all_of_a_row_by_one_factor():
    """The probabilities that it goes backward by do not add up to 1 as well as ours do.

    Each row has a token that it is sure of, beside which the others' exponentials are small.
    """
    torch.manual_seed(0)
    z = torch.randn(64, 49_152) * 2
    y = torch.zeros(64, dtype=torch.long)
    z[:, 0] = 16
    z.requires_grad_()
    task = SingleLabel()
    (own,) = torch.autograd.grad(task.item_losses(z, y).sum(), z)
    (library,) = torch.autograd.grad(task.library_losses(z, y).sum(), z)
    off = [float(g.double().sum(-1).abs().mean()) for g in (own, library)]
    assert off[1] > 4 * off[0]
