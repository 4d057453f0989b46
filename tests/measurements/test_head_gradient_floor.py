"""The rounding of a head's gradient in coarse dtypes, against torch's own backward pass."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from trainsanity.maths.regression import regress  # noqa: E402
from trainsanity.measurements.model.items import Items  # noqa: E402
from trainsanity.measurements.step.bounds import head_gradient_floor  # noqa: E402
from trainsanity.measurements.step.reference_loss import Reference  # noqa: E402
from trainsanity.objectives.classification import SingleLabel  # noqa: E402

ROWS, CLASSES, WIDTH = 8, 4, 64


def step(seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, Reference, torch.Tensor]:
    """Return torch's gradient of a fresh head, the reference, and the exact gradient."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(WIDTH, CLASSES, dtype=dtype)
    torch.nn.init.normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    # An encoder that is not trained yet says nearly the same of every row.
    read = (torch.randn(WIDTH) + 0.1 * torch.randn(ROWS, WIDTH)).tanh().to(dtype)
    targets = torch.randint(CLASSES, (ROWS,))
    logits = head(read)
    torch.nn.functional.cross_entropy(logits, targets).backward()
    task = SingleLabel()
    seen = logits.detach()
    items = Items(targets, task.losses(seen, targets), seen, read, dtype)
    right = Reference([items], [1 / ROWS], float(items.losses.mean()), "mean")
    exact = task.residual(seen, targets).T @ read.double() / ROWS
    gradient = head.weight.grad
    assert gradient is not None
    return gradient, right, exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_torch_rounds_is_within_the_floor(dtype: torch.dtype) -> None:
    """Where logarithms of probabilities count as exact, 13 of these 200 steps are beyond."""
    beyond = []
    for seed in range(200):
        gradient, right, exact = step(seed, dtype)
        slope, cosine = regress(gradient, exact)
        off_scale, off_axis = head_gradient_floor(SingleLabel(), right, dtype, exact)
        if abs(slope - 1) > off_scale or 1 - cosine > off_axis:
            beyond.append((seed, slope, cosine, off_scale, off_axis))
    assert beyond == []


def test_a_row_that_is_left_out_is_not_within_it() -> None:
    for seed in range(20):
        gradient, right, exact = step(seed, torch.bfloat16)
        part = right.parts[0]
        assert part.logits is not None
        assert part.vectors is not None
        residual = SingleLabel().residual(part.logits, part.targets)
        without = gradient.double() - residual[:1].T @ part.vectors[:1].double() / ROWS
        _, cosine = regress(without.to(gradient.dtype), exact)
        _, off_axis = head_gradient_floor(SingleLabel(), right, torch.bfloat16, exact)
        assert 1 - cosine > 10 * off_axis
