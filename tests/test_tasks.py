"""The reference loss against torch's own, and its derivative against autograd."""

from __future__ import annotations

import pytest
import torch

from trainsanity.tasks import per_example_loss, residual

torch.manual_seed(0)
LOGITS = torch.randn(7, 11, dtype=torch.float64) * 3
LABELS = torch.randint(0, 11, (7,))


def test_per_example_loss_is_cross_entropy():
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(per_example_loss(LOGITS, LABELS), expected)


def test_residual_is_its_derivative():
    logits = LOGITS.clone().requires_grad_()
    per_example_loss(logits, LABELS).sum().backward()
    torch.testing.assert_close(residual(LOGITS, LABELS), logits.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_taken_as_they_are(dtype):
    low = LOGITS.to(dtype)
    assert per_example_loss(low, LABELS).dtype is torch.float64
    torch.testing.assert_close(
        per_example_loss(low, LABELS), per_example_loss(low.double(), LABELS), rtol=0, atol=0
    )
