"""Gradients that a loop of one's own changes before it steps with them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fixtures.field import _loops  # noqa: E402
from trainsanity import Pipeline  # noqa: E402
from trainsanity.testing import run_one  # noqa: E402
from trainsanity.types import Status  # noqa: E402


def looping(change, **more):
    """Return the pipeline of a loop that calls ``change`` with its model before it steps."""
    model = _loops.language_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(given):
        model.train()
        (batch,) = given
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        change(model)
        optimizer.step()
        return loss.detach()

    return Pipeline.from_loop(
        model, _loops.texts(), _loops.collate, step, optimizer,
        per_device_train_batch_size=8, **more,
    )  # fmt: skip


def by_hand(model):
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    for parameter in model.parameters():
        parameter.grad.mul_(min(1.0, float(0.5 / norm)))


def by_layer(model):
    for layer in model.model.layers:
        nn.utils.clip_grad_norm_(layer.parameters(), 0.1)


def centred(model):
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.grad.sub_(parameter.grad.mean(1, keepdim=True))


def times(factor):
    def change(model):
        for parameter in model.parameters():
            parameter.grad.mul_(factor)

    return change


def limited(limit):
    return lambda model: nn.utils.clip_grad_norm_(model.parameters(), limit)


@pytest.mark.parametrize(
    "change",
    [
        limited(0.5),
        limited(100.0),
        lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.01),
        by_hand,
        by_layer,
        centred,
        lambda model: None,
    ],
    ids=["norm", "higher norm", "value", "by hand", "by layer", "centred", "nothing"],
)
def test_a_loop_may_limit_its_gradients(change):
    result = run_one("gradient.clipping", looping(change))
    assert result.status is Status.PASS, result
    assert result.message.startswith("the loop declares no max_grad_norm; its optimizer steps with")


def noisy(model):
    for parameter in model.parameters():
        parameter.grad.add_(0.01 * torch.ones_like(parameter))


@pytest.mark.parametrize("change", [times(1 / 3), noisy])
def test_what_no_limit_does_is_told(change):
    result = run_one("gradient.clipping", looping(change))
    (finding,) = result.findings
    assert result.status is Status.WARNING
    assert finding.factor == pytest.approx(1 / 3, rel=1e-4) or finding.factor > 1
    assert "max_grad_norm" not in finding.headline + finding.cause + finding.fix


@pytest.mark.parametrize(("limit", "status"), [(0.5, Status.PASS), (5.0, Status.FAIL)])
def test_a_limit_that_is_declared_is_kept(limit, status):
    assert run_one("gradient.clipping", looping(limited(limit), max_grad_norm=0.5)).status is status


def test_clips_one_after_the_other_begin_at_the_first():
    assert run_one("gradient.matches_autograd", looping(by_layer)).status is Status.PASS
