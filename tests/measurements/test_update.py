"""Which weights an update of a given size can change, by the arithmetic of their dtype."""

from __future__ import annotations

import math

import pytest
import torch

from trainsanity.measurements.step.update import _finite, before_step, can_move, trial_steps

RATES = [0.0, 1e-40, 3e-8, 1e-5, 2.0**-17, 1e-3, 1.0, 1e30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", RATES)
def test_an_update_of_half_a_unit_in_the_last_place_moves_a_weight(dtype, rate):
    generator = torch.manual_seed(0)
    size = torch.empty(4000).uniform_(-30, 15, generator=generator)
    sign = torch.randint(0, 2, (4000,), generator=generator) * 2 - 1
    powers = [sign * 2.0**k for k in range(-14, 15) for sign in (1, -1)]
    weight = torch.cat([sign * 2**size, torch.tensor([0.0, -0.0, *powers])]).to(dtype)
    # Element by element, in Python's own float64.
    eps = torch.finfo(dtype).eps
    expected = [
        w == 0 or math.ldexp(eps, math.frexp(w)[1] - 1) / 2 <= rate for w in weight.tolist()
    ]
    assert can_move(weight, rate).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_can_move_moves(dtype):
    weight = torch.randn(10_000, generator=torch.manual_seed(0)).to(dtype)
    rate = 3e-3 if dtype is torch.bfloat16 else 4e-8
    moved = (weight.double() - rate).to(dtype) != weight
    # Away from zero the spacing may be that of the next power of two, half as fine from below.
    agree = moved == can_move(weight, rate)
    assert agree.float().mean() > 0.99
    assert 0.05 < moved.float().mean() < 0.95


def test_a_gradient_is_finite_also_where_its_norm_is_not():
    large = torch.full((4,), 3e38)
    assert not torch.linalg.vector_norm(large).isfinite()
    bad = [torch.tensor([1.0, float("nan")]), torch.tensor([float("-inf")])]
    assert _finite([None, torch.ones(2), large, *bad]) == [True, True, True, False, False]
    assert _finite([None]) == [True]
    assert _finite([]) == []


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_gradient_of_rounding_is_told_from_a_rate_of_zero(kind):
    """Attention over one position has such gradients, and a layer norm's ones do not move."""
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("loud", "quiet", "zero")})
    for name, layer in model.items():
        torch.nn.init.ones_(layer.weight)
        layer.weight.grad = torch.full((2, 2), 1e-17 if name == "quiet" else 1.0)
    groups = [{"params": model[name].parameters(), "lr": 0.0 if name == "zero" else 0.01}
              for name in model]  # fmt: skip
    optimizer = getattr(torch.optim, kind)(groups, lr=0.01, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: model[name].weight.grad for name in model}
    update = before_step(model, optimizer)
    trial_steps(update, model, optimizer, None, 0)
    seen = {p.name.split(".")[0]: p for p in update.parameters if p.name.endswith("weight")}
    assert {name: p.moved for name, p in seen.items()} == {"loud": 4, "quiet": 0, "zero": 0}
    assert {name: p.answers for name, p in seen.items() if name != "loud"} == {
        "quiet": True, "zero": False
    }  # fmt: skip
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(model[name].weight.grad is gradient for name, gradient in gradients.items())
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01, 0.0]


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_against_old_momentum_is_no_ascent(kind, maximize):
    """Momentum of an earlier batch points elsewhere; an optimizer that maximises always climbs."""
    model = torch.nn.Linear(3, 3)
    options = {"momentum": 0.9} if kind == "SGD" else {"weight_decay": 0.0}
    optimizer = getattr(torch.optim, kind)(
        model.parameters(), lr=0.01, maximize=maximize, **options
    )
    # The batch before was larger, and its descent climbs on this one.
    for size in (1.0 if maximize else -1.0, 0.05):
        for p in model.parameters():
            p.grad = torch.full_like(p, size)
        if abs(size) == 1:
            optimizer.step()
    update = before_step(model, optimizer)
    weights, state = model.weight.clone(), optimizer.state[model.weight]
    trial_steps(update, model, optimizer, None, 0)
    assert update.trials[-1].climbs() == maximize
    assert torch.equal(model.weight, weights)
    assert optimizer.state[model.weight] is state
