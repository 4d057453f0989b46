"""Norms of tensors of any dtype."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from trainsanity.maths.norms import joined, norm_of, norm_of_all  # noqa: E402


@pytest.mark.parametrize(
    ("dtype", "reduced"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_a_norm_is_reduced_in_float32_at_the_least(dtype, reduced):
    tensor = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype)
    assert norm_of(tensor).dtype == reduced
    assert float(norm_of(tensor)) == 5
    assert norm_of(tensor, dim=-1).tolist() == [5, 0]


def test_tensors_of_several_dtypes_have_one_norm():
    tensors = [
        torch.tensor([2.0], dtype=torch.bfloat16),
        None,
        torch.tensor([3.0], requires_grad=True),
        torch.tensor([6.0], dtype=torch.float64),
    ]
    assert norm_of_all(tensors) == 7
    assert joined([]) == norm_of_all([None]) == 0


def test_a_square_that_float16_cannot_hold_is_no_infinity():
    assert norm_of_all([torch.full((4,), 3e4, dtype=torch.float16)]) == pytest.approx(6e4, rel=1e-3)
