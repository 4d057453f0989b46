"""How far two medians of a noisy clock are apart by chance."""

from __future__ import annotations

import math
import queue
import random
import statistics

import pytest
import torch

from fixtures.controls.factories import CHEAP
from fixtures.faults import healthy
from trainsanity.engine.session import Session
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.batches import padding as padding_module
from trainsanity.measurements.batches.padding import REPEATS, TIMED, noise, timed_settings
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip


@pytest.mark.parametrize(("repeats", "at_most"), [(REPEATS, 0.1), (20, 0.005), (60, 0.005)])
def test_equal_widths_are_seldom_beyond_the_noise(repeats, at_most):
    rng = random.Random(0)
    beyond = 0
    for _ in range(2000):
        one, again, own = ([rng.gauss(0.01, 0.002) for _ in range(repeats)] for _ in range(3))
        ratio = statistics.median(own) / statistics.median(one)
        beyond += ratio > 1 + noise(one, again, own)
    # Three values know little of their own spread; 4 standard errors of many are hardly exceeded.
    assert beyond / 2000 < at_most


def test_a_width_that_costs_half_as_much_again_is_beyond():
    rng = random.Random(0)
    one, again = ([rng.gauss(0.01, 0.001) for _ in range(20)] for _ in range(2))
    own = [rng.gauss(0.015, 0.001) for _ in range(20)]
    ratio = statistics.median(own) / statistics.median(one)
    assert ratio > 1 + noise(one, again, own)


def test_the_noise_is_the_larger_of_what_two_looks_say():
    one, own = [1.0, 2.0, 3.0, 4.0, 100.0], [1.0, 5.0, 6.0, 7.0, 12.0]
    # Both spread by 1 about their medians of 3 and 6; the variance of a median is pi / 2n of a
    # value's, whose deviation is 1.4826 times that spread.
    error = 1.4826 * (math.pi / 2 / 5) ** 0.5
    assert noise(one, one, own) == pytest.approx(STANDARD_ERRORS * (2 * error**2) ** 0.5 / 3)
    again = [303.0] * 5
    assert noise(one, again, own) == pytest.approx(100.0)
    assert noise(one, [0.0] * 5, [6.0] * 5) == pytest.approx(max(1.0, STANDARD_ERRORS * error / 3))


def test_each_setting_is_timed_at_its_width():
    """On the CPU, where the times mean nothing."""
    trainer = healthy(**CHEAP, pad_to_multiple_of=32)
    pipeline = Pipeline.from_trainer(trainer)
    batch, padding = (Session.of(pipeline).measurements.get(name) for name in ("batch", "padding"))
    head = trainer.model.score.weight
    head.grad = before = torch.ones_like(head)
    # A list would be put back: what a hook of the model holds is state of the pipeline.
    passed, waits = queue.SimpleQueue(), []
    hook = trainer.model.register_forward_pre_hook(
        lambda model, args, inputs: passed.put(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    seen = timed_settings(batch, padding, pipeline, lambda: waits.append(passed.qsize()))
    hook.remove()
    widths = [passed.get() for _ in range(passed.qsize())]
    longest = max(len(row["input_ids"]) for row in batch.micro_batches[0].rows)
    settings = {m: -(-longest // m) * m for m in (*TIMED, 32)}
    assert list(seen.seconds) == [1, 8, 32]
    assert all(seconds > 0 for seconds in seen.seconds.values())
    # The widest first; then rounds of every width and of the narrowest once more.
    rounds = [*sorted({*settings.values()}), longest]
    assert widths[0] == max(settings.values())
    assert len(widths[1:]) % len(rounds) == 0
    assert len(widths[1:]) >= REPEATS * len(rounds)
    assert sorted(widths[1 : 1 + len(rounds)]) == sorted(rounds)
    # The clock starts and stops when the device is idle.
    assert waits == [count for k in range(1, len(widths)) for count in (k, k + 1)]
    assert head.grad is before
    assert torch.equal(before, torch.ones_like(head))
    assert trainer.data_collator.pad_to_multiple_of == 32


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_width_that_does_not_fit_is_left_out_unless_it_is_the_runs_own(beyond, monkeypatch):
    """On the CPU, where memory is made up."""
    monkeypatch.setattr(padding_module, "TIMED", (1, 8, 64))
    trainer = healthy(**CHEAP, pad_to_multiple_of=32)
    pipeline = Pipeline.from_trainer(trainer)
    batch, padding = (Session.of(pipeline).measurements.get(name) for name in ("batch", "padding"))
    own = padding.widths[0]
    widest = -(-max(batch.micro_batches[0].lengths) // 64) * 64
    assert own < widest

    def full(model, args, inputs):
        if inputs["input_ids"].shape[1] >= own + beyond:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = trainer.model.register_forward_pre_hook(full, with_kwargs=True)
    try:
        if beyond:
            seen = timed_settings(batch, padding, pipeline, lambda: None)
            assert list(seen.seconds) == [1, 8, 32]
        else:
            rows = len(batch.micro_batches[0].rows)
            with pytest.raises(Skip, match=f"{rows} x {own} tokens do not fit on the device"):
                timed_settings(batch, padding, pipeline, lambda: None)
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["preference_trainer", "liked_trainer"])
def test_the_trainers_own_loss_is_timed_where_the_model_makes_none(name, monkeypatch):
    from fixtures.controls import preferences

    monkeypatch.setattr(padding_module, "LONG_ENOUGH", 0.0)
    trainer = getattr(preferences, name)(healthy(**CHEAP))
    trainer.data_collator.pad_to_multiple_of = 32
    pipeline = Pipeline.from_trainer(trainer)
    batch, padding = (Session.of(pipeline).measurements.get(name) for name in ("batch", "padding"))
    modes = [module.training for module in trainer.model.modules()]
    seen = timed_settings(batch, padding, pipeline, lambda: None)
    assert {1, 32} <= {*seen.seconds}
    assert [module.training for module in trainer.model.modules()] == modes
    assert all(p.grad is None for p in trainer.model.parameters())


def test_a_loss_that_cannot_be_asked_outside_of_train_is_not_timed():
    trainer = healthy(**CHEAP, pad_to_multiple_of=32)
    trainer.compute_loss = lambda *args, **kwargs: args[0].begun_in_train
    pipeline = Pipeline.from_trainer(trainer)
    batch, padding = (Session.of(pipeline).measurements.get(name) for name in ("batch", "padding"))
    with pytest.raises(Skip, match=r"cannot be asked outside of train.*begun_in_train"):
        timed_settings(batch, padding, pipeline, lambda: None)


def test_what_compute_loss_takes_out_of_a_batch_is_there_the_next_time():
    trainer = healthy(**CHEAP, pad_to_multiple_of=32)

    def compute_loss(model, inputs, *args, **kwargs):
        labels = inputs.pop("labels")
        return torch.nn.functional.cross_entropy(model(**inputs).logits, labels)

    trainer.compute_loss = compute_loss
    pipeline = Pipeline.from_trainer(trainer)
    batch, padding = (Session.of(pipeline).measurements.get(name) for name in ("batch", "padding"))
    assert timed_settings(batch, padding, pipeline, lambda: None).seconds
