"""What makes steps slow is named with its factor, and a healthy run has no warning."""

from __future__ import annotations

import time

import pytest

from fixtures.controls import all_controls
from tests.untouched import untouched
from trainsanity.checks.speed.steps_take_alike import steps_take_alike
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.measurements.speed import clock as part
from trainsanity.measurements.speed.figures import Clocked, Micro
from trainsanity.pipeline import Pipeline
from trainsanity.report.figures import draw
from trainsanity.report.pictures import pictures_of
from trainsanity.types import Cost, Finding, Status

pytest.importorskip("tiktoken")

ROW = 0.05
"""Seconds that a planted collator takes for each row."""


def built(**settings):
    (control,) = (one for one in all_controls() if one.id == "fused")
    return control.build(**settings)


def judged(pipeline):
    with untouched(pipeline):
        report = run(pipeline, registry().select(["speed"]))
    return {result.check.name: result for result in report.results}


def test_a_healthy_run_has_no_warning():
    pipeline = Pipeline.from_trainer(built())
    found = judged(pipeline)
    assert {result.status for result in found.values()} == {Status.PASS}
    clocked = Session.of(pipeline).measurements.get("clocked")
    # The parts are all there is of a step, and the rates are what was counted over it.
    assert sum(clocked.parts.values()) == pytest.approx(sum(clocked.steps), rel=0.02)
    assert {part.FORWARD, part.BACKWARD, part.OPTIMIZER, part.WAIT} <= {*clocked.parts}
    rows = sum(micro.rows for micro in clocked.micros)
    assert clocked.rates["rows"] == pytest.approx(rows / sum(clocked.steps))
    assert clocked.rates["attended_tokens"] < clocked.rates["tokens"]
    assert clocked.operations.count > 0
    assert "cpu" in clocked.operations.words
    (picture,) = (one for one in pictures_of(pipeline) if one.stage == "speed")
    assert not picture.reason
    assert draw(picture, "p-").startswith("<svg")


@pytest.mark.corpus
def test_what_is_slow_is_named_with_its_factor():
    """No workers and a slow collator, rows padded to 512, layers that are computed twice."""
    trainer = built(pad_to_multiple_of=512)
    collate = trainer.data_collator

    def slow(rows):
        time.sleep(ROW * len(rows))
        return collate(rows)

    trainer.data_collator = slow
    new = hasattr(trainer.args, "activation_checkpointing")
    setattr(trainer.args, f"{'activation' if new else 'gradient'}_checkpointing", True)
    layer = trainer.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: time.sleep(2 * ROW))
    pipeline = Pipeline.from_trainer(trainer)
    found = judged(pipeline)
    loading = Session.of(pipeline).measurements.get("loading")
    # Each micro-batch waits for what its rows take, and workers take most of that away.
    assert loading.seconds >= ROW * trainer.args.train_batch_size * 2
    for name in ("speed.loader_keeps_up", "speed.settings_are_quick"):
        assert found[name].status is Status.WARNING, found[name]
        assert found[name].factor < 0.95
    clocked = Session.of(pipeline).measurements.get("clocked")
    shorter = [one for one in clocked.alternatives if one.kind == "padding"]
    assert shorter[0].now == "512 positions"
    assert shorter[0].agrees
    # The sleep is in every pass of the layer: forward, and again in backward.
    recomputed = [one for one in clocked.alternatives if one.kind == "checkpointing"]
    assert recomputed[0].agrees


def test_the_gate_measures_nothing_of_it():
    checks = [check for check in registry().select() if check.stage == "speed"]
    assert {check.cost for check in checks} == {Cost.STATIC}
    assert {check.code for check in registry().select(["TS0"])} >= {"TS001", "TS007"}
    assert all(check.stage == "speed" for check in registry().select(["TS0"]))


def micros(seconds, positions):
    return [Micro(0.0, s, 1, p, p) for s, p in zip(seconds, positions, strict=True)]


@pytest.mark.parametrize(
    ("seconds", "positions", "found"),
    [
        ([1 + 0.02 * k for k in range(24)], [100, 90] * 12, True),
        ([1 + 0.02 * k for k in range(24)], [100 + k for k in range(24)], False),  # wider each time
        ([1 + 0.001 * k for k in range(24)], [100] * 24, False),  # by less than is worth a word
        ([1, 1.4] * 12, [100] * 24, False),
    ],
)
def test_times_that_grow(seconds, positions, found):
    seen = Clocked(steps=seconds, micros=micros(seconds, positions), parts={}, parts_of=1.0)
    assert any(isinstance(one, Finding) for one in steps_take_alike(seen)) is found
