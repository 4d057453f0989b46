"""Promises that somebody tried to break: each pipeline here is odd, and trains.

State that is put back is in tests/isolation/test_odd_states.py; callbacks are among the faults.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest
import torch

from fixtures.faults import healthy, subclassed
from fixtures.pipelines.tiny_qwen3 import _model
from tests.isolation.odd_states import ODD
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.errors import UsageError
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec

FEW = {"rows": 60, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


def judged(trainer, *select, max_cost=None):
    """The statuses by code, and the report."""
    report = run(Pipeline.from_trainer(trainer), registry().select(select, max_cost=max_cost))
    return {result.check.code: str(result.status) for result in report.results}, report


def test_a_model_that_train_makes_anew_is_the_one_that_is_judged():
    trainer = healthy(**FEW)
    again = type(trainer)(
        model_init=lambda: _model(),  # noqa: PLW0108  a parameter would be given the trial
        args=trainer.args,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        data_collator=trainer.data_collator,
        processing_class=trainer.processing_class,
    )
    make = again.model_init
    asked = ("TS502", "TS602", "TS603", "TS605", "TS701")
    statuses, report = judged(again, *asked)
    assert statuses == dict.fromkeys(asked, "pass")
    assert any("model_init" in note for note in report.environment["notes"])
    assert again.model_init is make


def test_weights_in_float64_are_judged():
    trainer = healthy(**FEW)
    trainer.model.double()
    asked = ("TS411", "TS502", "TS601", "TS603", "TS702")
    assert judged(trainer, *asked)[0] == dict.fromkeys(asked, "pass")


def test_a_log_in_output_dir_is_no_change(tmp_path):
    trainer = healthy(**FEW)
    trainer.args.output_dir = str(tmp_path)
    logger = logging.getLogger("users.own")
    handler = logging.FileHandler(tmp_path / "train.log")
    logger.addHandler(handler)

    def training_step(self, *args, **kwargs):
        logger.warning("step")
        return super(type(self), self).training_step(*args, **kwargs)

    try:
        assert judged(subclassed(trainer, training_step=training_step), "TS503")[0] == {
            "TS503": "pass"
        }
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert "step" in (tmp_path / "train.log").read_text()


def test_a_factory_that_hangs_is_stopped():
    with pytest.raises(UsageError, match=r"building slow took longer than the 0\.2 s"):
        PipelineSpec("slow", lambda: time.sleep(60), timeout=0.2).make()


def test_a_coroutine_and_a_model_without_shapes_are_refused_in_a_sentence():
    async def build():
        return healthy()

    with pytest.raises(UsageError, match="async def"):
        PipelineSpec("later", build).make()
    trainer = healthy(**FEW)
    trainer.model.further = torch.nn.LazyLinear(3)
    with pytest.raises(UsageError, match=r"further\.weight, further\.bias of .* have no shape yet"):
        Pipeline.from_trainer(trainer)


@pytest.mark.parametrize("last", [True, "nowhere/checkpoint-7"])
def test_a_train_that_resumes_from_nothing_is_refused_in_a_sentence(last, tmp_path):
    def train(self, *args, **kwargs):
        return super(type(self), self).train(resume_from_checkpoint=last)

    trainer = subclassed(healthy(**FEW), train=train)
    trainer.args.output_dir = str(tmp_path)
    with pytest.raises(UsageError, match="train\\(\\) is to resume, and"):
        judged(trainer, "TS503")


def test_what_cannot_be_wound_back_is_named():
    trainer = healthy(**FEW)
    rows = (dict(row) for row in trainer.train_dataset)
    trainer.data_collator.further = rows
    step = trainer.training_step

    def training_step(*args, **kwargs):
        next(trainer.data_collator.further)
        return step(*args, **kwargs)

    trainer.training_step = training_step
    _, report = judged(trainer, "TS503")
    assert any(
        "data_collator.further: has been read on" in note for note in report.environment["notes"]
    )


def test_a_callback_that_only_reports_is_named():
    from transformers import TrainerCallback

    class Sends(TrainerCallback):
        def on_log(self, *args, **kwargs):
            raise AssertionError("sent")

    trainer = healthy(**FEW)
    trainer.add_callback(Sends())
    statuses, report = judged(trainer, "TS503")
    assert statuses == {"TS503": "pass"}
    assert report.environment["notes"] == [
        "callbacks that took no part in the recorded steps: Sends (hears of no step)"
    ]


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["sampler_with_a_generator", "dataset_draws_from_a_random"])
def test_an_evaluation_is_not_blamed_for_state_of_the_pipelines_own(name):
    trainer = healthy(**FEW)
    ODD[name](trainer)
    assert judged(trainer, "TS907")[0] == {"TS907": "pass"}


TWICE = """
from fixtures.faults import healthy
def build():
    trainer = healthy()
    trainer.args.output_dir = "out"
    return type(trainer)(
        model=trainer.model, args=trainer.args, train_dataset=trainer.train_dataset,
        data_collator=trainer.data_collator, processing_class=trainer.processing_class,
    )
"""


@pytest.mark.matrix
def test_two_runs_in_one_folder_do_not_disturb_each_other(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    command = [sys.executable, "-m", "trainsanity", "run", "twice:build", "--select", "TS5,TS6"]
    runs = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    said = [one.communicate(timeout=300)[0].decode() for one in runs]
    assert [one.returncode for one in runs] == [0, 0, 0], said
