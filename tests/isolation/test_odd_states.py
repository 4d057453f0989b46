"""State in odd places: training after the check equals training without it, bit for bit."""

from __future__ import annotations

import functools
import hashlib
import signal
import threading
import time

import pytest
import torch

from fixtures.faults import healthy
from tests.isolation.odd_states import ODD
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline

pytestmark = pytest.mark.long

STEPS = {
    "max_steps": 2,
    "warmup_steps": 0,
    "learning_rate": 1e-4,
    "rows": 60,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
}

QUICK = (
    "buffer_assigned_anew",
    "collator_of_globals",
    "module_with_a_memory",
    "optimizer_with_attributes",
    "sampler_with_a_generator",
)
"""One of each kind of place; the others are asked by `tox -e matrix`."""

SOME = ["TS502", "TS601"]
"""Checks that look at the rows, the batches, the model, and two steps."""


def train(name, between=lambda trainer: None):
    """What is left of a training, by name; ``between`` may do what it wants before it."""
    torch.manual_seed(1)
    trainer = healthy(**STEPS)
    torch.manual_seed(2)
    state = ODD[name](trainer)
    between(trainer)
    trainer.train()
    named = dict(trainer.model.named_parameters())
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    return {
        "state": state(),
        "log": [{k: v for k, v in row.items() if k not in timed}
                for row in trainer.state.log_history],
        "random state": torch.get_rng_state().tolist(),
        **dict(zip(named, map(_bits, named.values()), strict=True)),
    }  # fmt: skip


def _bits(tensor):
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha1(flat.numpy()).hexdigest()


def different(one, other):
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


@pytest.fixture(scope="module")
def without():
    """Trainings that nobody looked at, by the pipeline's name."""
    return functools.cache(train)


def some_now_all_later(name):
    return pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.matrix)


@pytest.mark.parametrize("name", [*map(some_now_all_later, ODD)])
def test_training_after_the_check_equals_training_without_it(name, without):
    def judge(trainer):
        pipeline = Pipeline.from_trainer(trainer)
        report = run(pipeline, registry().select(SOME))
        looked.extend(str(result.status) for result in report.results)
        assert pipeline.unrestored == []

    looked = []
    assert different(without(name), train(name, judge)) == []
    assert looked == ["pass"] * len(SOME)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ODD)
def test_the_same_after_all_checks(name, without):
    def judge(trainer):
        pipeline = Pipeline.from_trainer(trainer)
        report = run(pipeline, registry().select())
        looked.update({r.check.code: str(r.status) for r in report.results})
        assert pipeline.unrestored == []

    looked = {}
    assert different(without(name), train(name, judge)) == []
    assert looked["TS502"] == "pass"


class Armed:
    """Ends a look in the middle; kept in an event, which is not the pipeline's state."""

    def __init__(self, trainer, how):
        self.event, self.how, step = threading.Event(), how, trainer.training_step
        self.event.set()
        self.calls = threading.local()
        self.calls.taken = 0

        def training_step(*args, **kwargs):
            loss = step(*args, **kwargs)
            self.calls.taken += 1
            if self.event.is_set() and self.calls.taken == 2:
                self.how()
            return loss

        trainer.training_step = training_step


def fail():
    raise ValueError("in the middle of a step")


def hang():
    time.sleep(60)


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (fail, "module_with_a_memory"),
        (hang, "collator_of_globals"),
        (interrupt, "optimizer_with_attributes"),
        *(
            pytest.param(how, name, marks=pytest.mark.matrix)
            for how in (fail, hang, interrupt)
            for name in (
                "buffer_assigned_anew",
                "dataset_writes_into_its_rows",
                "loss_module_with_weights",
                "sampler_with_a_generator",
                "scheduler_with_a_history",
            )
        ),
    ],
)
def test_the_same_after_a_look_that_was_ended(how, name, without):
    def judge(trainer):
        armed = Armed(trainer, how)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            report = run(
                Pipeline.from_trainer(trainer),
                registry().select(["TS503"]),
                timeout=2 if how is hang else None,
            )
            ended.append(str(report.results[0].status))
        except KeyboardInterrupt:
            ended.append("interrupted")
        finally:
            signal.signal(signal.SIGINT, before)
            armed.event.clear()

    ended = []
    assert different(without(name), train(name, judge)) == []
    assert ended == ["interrupted" if how is interrupt else "error"]
