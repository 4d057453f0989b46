"""The reference losses against torch's and transformers' own, and their derivatives."""

from __future__ import annotations

import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_pt_utils import LabelSmoother

from trainsanity.tasks import (
    CAUSAL_LM,
    IGNORED,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TOKENS,
    Task,
)

torch.manual_seed(0)
LOGITS = torch.randn(7, 11, dtype=torch.float64) * 3
CLASSES = torch.randint(0, 11, (7,))
PER_TOKEN = torch.randn(3, 5, 11, dtype=torch.float64)
TOKEN_LABELS = torch.randint(0, 11, (3, 5))
TOKEN_LABELS[0, 3:] = TOKEN_LABELS[2, 0] = IGNORED

functional = torch.nn.functional
CASES = {
    SINGLE_LABEL: (LOGITS, CLASSES, functional.cross_entropy(LOGITS, CLASSES)),
    MULTI_LABEL: (
        LOGITS,
        (LOGITS > 1).double(),
        functional.binary_cross_entropy_with_logits(LOGITS, (LOGITS > 1).double()),
    ),
    REGRESSION: (LOGITS, -LOGITS, functional.mse_loss(LOGITS, -LOGITS)),
    TOKENS: (
        PER_TOKEN,
        TOKEN_LABELS,
        functional.cross_entropy(PER_TOKEN.flatten(0, 1), TOKEN_LABELS.flatten()),
    ),
    CAUSAL_LM: (PER_TOKEN, TOKEN_LABELS, ForCausalLMLoss(PER_TOKEN, TOKEN_LABELS, 11)),
}


def losses(task, values, labels):
    return task.losses(task.items(values, labels), task.targets(labels))


@pytest.mark.parametrize("name", CASES)
def test_the_mean_is_the_loss(name):
    values, labels, expected = CASES[name]
    mean = losses(Task(name), values, labels).mean()
    # transformers computes a language model's loss in float32.
    torch.testing.assert_close(mean, expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_the_residual_is_the_derivative(name, smoothing):
    values, labels, _ = CASES[name]
    task = Task(name, smoothing)
    logits = task.items(values, labels).clone().requires_grad_()
    task.losses(logits, task.targets(labels)).sum().backward()
    torch.testing.assert_close(task.residual(logits.detach(), task.targets(labels)), logits.grad)


@pytest.mark.parametrize("name", [SINGLE_LABEL, TOKENS])
def test_label_smoothing_is_the_trainers(name):
    values, labels, _ = CASES[name]
    expected = LabelSmoother(epsilon=0.3)({"logits": values}, labels)
    mean = losses(Task(name, 0.3), values, labels).mean()
    torch.testing.assert_close(mean, expected.double(), rtol=1e-6, atol=1e-6)


def test_regression_on_one_output():
    z, y = LOGITS[:, :1], LOGITS[:, 1]
    mean = losses(Task(REGRESSION), z, y).mean()
    torch.testing.assert_close(mean, functional.mse_loss(z.squeeze(), y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_taken_as_they_are(dtype):
    low = LOGITS.to(dtype)
    assert Task(SINGLE_LABEL).losses(low, CLASSES).dtype is torch.float64
    torch.testing.assert_close(
        Task(SINGLE_LABEL).losses(low, CLASSES),
        Task(SINGLE_LABEL).losses(low.double(), CLASSES),
        rtol=0,
        atol=0,
    )
