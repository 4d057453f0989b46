"""A measurement that is stopped because it took too long leaves the pipeline as it was."""

from __future__ import annotations

import importlib
import os
import queue
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from fixtures.controls import OF_SEVERAL_PROCESSES, all_controls
from fixtures.controls.factories import CHEAP
from tests.sources.test_loop import looped
from tests.untouched import untouched
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.isolation import time_limit
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Cost, Status

pytestmark = pytest.mark.long

CONTROLS = {control.id: control for control in all_controls()}

STOPPED = "took longer than the {:g} s that it was given and was stopped"


def plain() -> Pipeline:
    return PipelineSpec("plain", lambda: CONTROLS["plain"].build(**CHEAP)).make()


def stopped(pipeline: Pipeline, checks: Any, seconds: float) -> set[str]:
    """Judge with a limit; return what was stopped: nothing else failed or is left changed."""
    pipeline.session = None
    with untouched(pipeline):
        report = run(pipeline, checks, timeout=seconds)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    said = {result.reason for result in report.results if result.status is Status.ERROR}
    said_by = {one: one.removesuffix(STOPPED.format(seconds)) for one in said}
    assert all(one != who for one, who in said_by.items()), said
    assert report.exit_code() == (3 if said else 0)
    return {who.strip() for who in said_by.values()}


def now() -> None:
    """The timer rings."""
    signal.raise_signal(signal.SIGALRM)


# --- at any moment --------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [plain, looped])
def test_whatever_takes_longer_than_a_moment_leaves_everything_as_it_was(build: Any) -> None:
    pipeline = build()
    run(pipeline, registry().select())  # imports what it needs
    every = registry().select(ignore=OF_SEVERAL_PROCESSES, max_cost=Cost.RUN)
    caught: set[str] = set()
    for seconds in (0.003, 0.01, 0.03, 0.1):
        caught |= stopped(pipeline, every, seconds)
    assert len(caught) >= 6, caught


# --- at chosen ones -------------------------------------------------------------------------------


def in_a_step(trainer: Any) -> None:
    """While the second micro-batch of the recorded steps is judged, with half a gradient there."""
    stock, calls = trainer.compute_loss, []

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        calls.append(True)
        if len(calls) == 2:
            now()
        return stock(*args, **kwargs)

    trainer.compute_loss = compute_loss


def after_a_step(trainer: Any) -> None:
    """When the optimizer has changed the weights."""
    stock = trainer.create_optimizer

    def create_optimizer(*args: Any, **kwargs: Any) -> Any:
        optimizer = stock(*args, **kwargs)
        trainer.optimizer.register_step_post_hook(lambda *_: now())
        return optimizer

    trainer.create_optimizer = create_optimizer


def while_saving(trainer: Any) -> None:
    """The weights were moved a little, as training does."""
    trainer.save_model = lambda *_args, **_kwargs: now()


def while_evaluating(trainer: Any) -> None:
    """In the middle of a run of several steps."""
    trainer.evaluate = lambda *_args, **_kwargs: now()


def while_learning_by_heart(trainer: Any) -> None:
    """In the twentieth micro-batch of all; a list would begin anew with each measurement."""
    stock, calls = trainer.training_step, queue.SimpleQueue()

    def training_step(*args: Any, **kwargs: Any) -> Any:
        calls.put(True)
        if calls.qsize() == 20:
            now()
        return stock(*args, **kwargs)

    trainer.training_step = training_step


@pytest.mark.parametrize(
    ("moment", "code", "look"),
    [
        (in_a_step, "TS503", "measurement 'recording'"),
        (after_a_step, "TS503", "measurement 'recording'"),
        (while_saving, "TS903", "measurement 'saved'"),
        (while_evaluating, "TS907", "measurement 'evaluated'"),
        (while_learning_by_heart, "TS901", "measurement 'overfit'"),
    ],
)
def test_at_a_moment_that_changes_much(moment: Any, code: str, look: str) -> None:
    pipeline = plain()
    moment(pipeline.trainer)
    assert stopped(pipeline, registry().select([code]), 600) == {look}


def after_a_step_of_a_loop(model: Any, optimizer: Any, scheduler: Any) -> Any:
    def train_step(micro_batches: list[Any]) -> Any:
        for micro_batch in micro_batches:
            model(**micro_batch).loss.backward()
        os.environ["TRAINSANITY_LEFT"] = "by the loop"
        optimizer.step()
        scheduler.step()
        now()

    return train_step


def test_at_a_moment_of_a_loop() -> None:
    checks = registry().select(["TS503"])
    assert stopped(looped(after_a_step_of_a_loop), checks, 600) == {"measurement 'recording'"}


# --- in another process ---------------------------------------------------------------------------


def test_the_process_that_a_run_is_resumed_in_ends_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.syspath_prepend("tests/examples")
    spec = PipelineSpec(
        "waits", importlib.import_module("cli_factories").healthy, command=("cli_factories:waits",)
    )
    with spec.built() as pipeline:
        run(pipeline, registry().select())  # imports what it needs
        seconds = 4.0  # enough for a few steps of a tiny model, never for the other process
        assert stopped(pipeline, registry().select(["TS902"]), seconds) == {"measurement 'resumed'"}
        assert os.listdir(tmp_path) == [os.path.basename(pipeline.args.output_dir)]
    assert psutil.Process().children(recursive=True) == []


def test_a_timer_that_rings_as_the_time_is_over_is_not_set_again(monkeypatch):
    """The signal comes while the limit is lifted: armed again, it would end the process."""
    stock, rung = signal.setitimer, []

    def ringing(which: int, seconds: float, interval: float = 0.0) -> Any:
        before = stock(which, seconds, interval)
        if not seconds and not rung:
            rung.append(True)
            now()
        return before

    monkeypatch.setattr(time_limit.signal, "setitimer", ringing)
    with time_limit.limited(30.0, "a look"):
        pass
    assert rung
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
