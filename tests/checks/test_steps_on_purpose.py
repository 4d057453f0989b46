"""Loops whose optimizers and schedulers are stepped otherwise than once a batch, and rightly so."""

from __future__ import annotations

import datasets
import pytest
import torch

from trainsanity import Pipeline, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run


class Net(torch.nn.Module):
    """A line, with the loss of the rows."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def forward(self, x, labels=None):
        return {"loss": torch.nn.functional.mse_loss(self.line(x).squeeze(-1), labels)}


def collate(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in ("x", "labels")}


def judged(code, step_of, scheduler_of=None, batches=12):
    """Return the result of a check on a loop over so many batches of four rows."""
    torch.manual_seed(0)
    draw = torch.randn(4 * batches, 3).tolist()
    rows = datasets.Dataset.from_list([{"x": row[:2], "labels": row[2]} for row in draw])
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = scheduler_of and scheduler_of(optimizer)
    pipeline = Pipeline.from_loop(
        model,
        rows,
        collate,
        step_of(model, optimizer, scheduler),
        optimizer,
        lr_scheduler=scheduler,
        per_device_train_batch_size=4,
    )
    return run(pipeline, [registry().get(code)]).results[0]


def _backward(model, optimizer, batch):
    loss = model(**batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    return loss.detach()


def parts_of_a_batch(model, optimizer, _):
    """Two passes over two halves, as PPO takes them."""

    def step(given):
        for _ in range(2):
            for part in (slice(0, 2), slice(2, 4)):
                loss = _backward(model, optimizer, {k: v[part] for k, v in given[0].items()})
                optimizer.step()
        return loss

    return step


def stepped_twice(model, optimizer, _):
    """step() is called in two places, for one backward pass."""

    def step(given):
        loss = _backward(model, optimizer, given[0])
        optimizer.step()
        optimizer.step()
        return loss

    return step


def inner_loop(model, optimizer, _):
    """Reptile: an optimizer of its own for each task, and a part of the way that it went."""

    def step(given):
        old = [p.detach().clone() for p in model.parameters()]
        inner = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))
        for _ in range(3):
            loss = _backward(model, inner, given[0])
            inner.step()
        with torch.no_grad():
            for p, before in zip(model.parameters(), old, strict=True):
                p.lerp_(before, 0.5)
        return loss

    return step


def made_anew(model, optimizer, _):
    def step(given):
        own = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss = _backward(model, own, given[0])
        own.step()
        return loss

    return step


@pytest.mark.parametrize(
    ("step_of", "status"),
    [
        (parts_of_a_batch, Status.WARNING),
        (stepped_twice, Status.FAIL),
        (inner_loop, Status.WARNING),
        (made_anew, Status.FAIL),
    ],
)
def test_batches_may_be_used_more_than_once(step_of, status):
    assert judged("TS709", step_of).status is status


def told(value_of, every=1):
    """Return a loop that steps its scheduler with a number each so many steps, the first too."""

    def step_of(model, optimizer, scheduler):
        mean, count = [], [0]
        held = {"x": torch.ones(8, 2), "labels": torch.ones(8)}

        def step(given):
            loss = _backward(model, optimizer, given[0])
            optimizer.step()
            mean[:] = [0.9 * mean[0] + 0.1 * float(loss)] if mean else [float(loss)]
            if count[0] % every == 0:
                with torch.no_grad():
                    scheduler.step(value_of(loss, mean[0], model(**held)["loss"]))
            count[0] += 1
            return loss

        return step

    return step_of


@pytest.mark.parametrize(
    ("step_of", "status"),
    [
        (told(lambda own, mean, held: own), Status.FAIL),
        (told(lambda own, mean, held: 4 * own.item()), Status.FAIL),
        (told(lambda own, mean, held: mean), Status.PASS),
        (told(lambda own, mean, held: held), Status.PASS),
        (told(lambda own, mean, held: own, every=12), Status.PASS),
    ],
)
def test_a_plateau_of_anything_but_single_losses_is_none_of_noise(step_of, status):
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)

    assert judged("TS810", step_of, plateau).status is status
