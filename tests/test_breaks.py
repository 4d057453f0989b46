"""Each way in which a promise was once broken, and the test that holds it.

Five are asked here; the others are named in `HELD`, beside what asks the same of whole processes or
of more pipelines under `-m matrix`.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from transformers import Trainer, TrainerCallback

from fixtures.faults import healthy, subclassed
from tests.isolation.odd_states import ODD
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec

FEW = {"rows": 60, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}

ODD_STATES = "isolation.test_odd_states::test_training_after_the_check_equals_training_without_it"
ALL_CHECKS = "isolation.test_odd_states::test_the_same_after_all_checks"
RESISTS = "sources.test_script_child::test_a_script_that_resists_in_every_way"
PROMISES = "test_promises::test_"
ATTACKED = "cli.test_diagnose_attacked::test_"

HELD = {
    "os._exit in finally, with a head of NaN": [
        RESISTS,
        "cli.test_leaving::test_a_factory_that_leaves_is_not_green",
    ],
    "a Trainer with model_init": [
        f"{PROMISES}a_model_that_train_makes_anew_is_the_one_that_is_judged"
    ],
    "noise of NEFTune": ["test_breaks::test_noise_in_the_embeddings_is_no_wrong_gradient"],
    "a dataset with a random state of its own": [
        "test_breaks::test_a_generator_of_the_datasets_own_is_not_blamed_on_evaluation",
        "test_breaks::test_a_generator_that_no_checkpoint_has_is_red_when_resuming",
        f"{ALL_CHECKS}[dataset_draws_from_a_random]",
    ],
    "a sampler with a generator of its own": [
        f"{ODD_STATES}[sampler_with_a_generator]",
        f"{PROMISES}an_evaluation_is_not_blamed_for_state_of_the_pipelines_own"
        "[sampler_with_a_generator]",
    ],
    "a buffer that is assigned anew": [f"{ODD_STATES}[buffer_assigned_anew]"],
    "a callback that clears gradients": [
        "test_breaks::test_a_callback_that_clears_gradients_is_red",
        f"{PROMISES}a_callback_that_only_reports_is_named",
    ],
    "two runs in one folder": [
        "test_breaks::test_a_folder_that_another_run_removes_is_no_change",
        f"{PROMISES}two_runs_in_one_folder_do_not_disturb_each_other",
    ],
    "escapes in names of classes": [
        "test_show::test_what_data_holds_cannot_steer_the_terminal",
        "test_report_screen::test_data_cannot_steer_the_terminal",
    ],
    "untrained weights over a file": [
        "isolation.test_unwritten::test_no_weights_are_written_while_a_pipeline_is_judged",
        RESISTS,
    ],
    "weights in float64": [f"{PROMISES}weights_in_float64_are_judged"],
    "a log in output_dir": [f"{PROMISES}a_log_in_output_dir_is_no_change"],
    "attributes of an optimizer": [f"{ODD_STATES}[optimizer_with_attributes]"],
    "sys.exit replaced": [RESISTS],
    "diagnose: options that are none": [f"{ATTACKED}options_that_are_none"],
    "diagnose: a cross entropy below 0": [f"{ATTACKED}a_cross_entropy_below_0_is_found"],
    "diagnose: files": [f"{ATTACKED}files_that_are_odd"],
    "annotations on a stream of ASCII": [
        "test_report_github::test_annotations_hold_no_control_characters_and_no_lone_surrogates",
        "cli.test_output::test_a_report_on_a_stream_of_any_encoding[ascii]",
    ],
    "a thread that never ends": [RESISTS],
    "a factory that hangs": [f"{PROMISES}a_factory_that_hangs_is_stopped"],
    "float32 moments of bfloat16 weights": [
        "test_breaks::test_moments_keep_their_dtype",
        f"{ALL_CHECKS}[float32_moments_of_bfloat16_weights]",
    ],
    "a test that never calls its check": [
        "test_pytest_plugin::test_a_test_that_never_calls_its_check_fails"
    ],
    "what a submodule's forward writes": [
        f"{ODD_STATES}[module_with_a_memory]",
        f"{ALL_CHECKS}[module_with_a_generator]",
    ],
}
"""By what was done: the tests, of which the first is one of the default run."""


def named(test):
    """The function of a test as pytest names it, its marks, and those of its parameters."""
    where, _, name = test.partition("::")
    name, _, ident = name.rstrip("]").partition("[")
    function = getattr(importlib.import_module(f"tests.{where}"), name)
    marks = {mark.name for mark in function.pytestmark} if hasattr(function, "pytestmark") else {}
    if not ident:
        return function, {*marks}
    (given,) = [m.args[1] for m in function.pytestmark if m.name == "parametrize"]
    (of_it,) = [
        {mark.name for mark in getattr(value, "marks", ())}
        for value in given
        if ident in (getattr(value, "id", None), value)
    ]
    return function, {*marks} | of_it


@pytest.mark.parametrize("what", HELD)
def test_what_was_broken_is_asked_by_the_default_run(what):
    for number, test in enumerate(HELD[what]):
        function, marks = named(test)
        assert callable(function)
        if number == 0:
            assert "matrix" not in marks, test


def judged(trainer, *select):
    report = run(Pipeline.from_trainer(trainer), registry().select(select))
    return {result.check.code: str(result.status) for result in report.results}


def test_noise_in_the_embeddings_is_no_wrong_gradient():
    trainer = healthy(**FEW)
    trainer.args.neftune_noise_alpha = trainer.neftune_noise_alpha = 5.0
    assert judged(trainer, "TS601", "TS606") == {"TS601": "pass", "TS606": "pass"}


def test_a_callback_that_clears_gradients_is_red():
    class FreesMemory(TrainerCallback):
        def on_pre_optimizer_step(self, *_, model=None, **kwargs):
            model.zero_grad(set_to_none=True)

    trainer = healthy(**FEW)
    trainer.add_callback(FreesMemory())
    assert judged(trainer, "TS605") == {"TS605": "fail"}


def test_a_folder_that_another_run_removes_is_no_change(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    trainer = healthy(**FEW)
    trainer.args.output_dir = str(out)

    def training_step(self, *args, **kwargs):
        if out.is_dir():
            out.rmdir()
        return Trainer.training_step(self, *args, **kwargs)

    assert judged(subclassed(trainer, training_step=training_step), "TS503") == {"TS503": "pass"}
    assert not out.exists()


def test_moments_keep_their_dtype():
    trainer = healthy(**FEW)
    state = ODD["float32_moments_of_bfloat16_weights"](trainer)
    before = state()
    assert {dtype for dtype, *_ in before} == {torch.float32}
    assert judged(trainer, "TS502") == {"TS502": "pass"}
    assert state() == before


def drawn(**settings):
    """Words of each row are dropped by a generator that the dataset holds."""
    trainer = healthy(**FEW, **settings)
    ODD["dataset_draws_from_a_random"](trainer)
    return trainer


def test_a_generator_of_the_datasets_own_is_not_blamed_on_evaluation():
    assert judged(drawn(), "TS907") == {"TS907": "pass"}


@pytest.mark.matrix
def test_a_generator_that_no_checkpoint_has_is_red_when_resuming(tmp_path):
    def rows(steps, resume=None):
        """Which rows a training sees; the ids of each micro-batch."""
        trainer = drawn(max_steps=steps)
        trainer.args.output_dir = str(tmp_path)
        trainer.args.save_strategy, trainer.args.save_steps = "steps", 1
        seen = []

        def training_step(self, model, inputs, *args):
            seen.append(inputs["input_ids"].tolist())
            return Trainer.training_step(self, model, inputs, *args)

        subclassed(trainer, training_step=training_step).train(resume_from_checkpoint=resume)
        return seen

    straight = rows(2)
    assert rows(1) == straight[:2]
    assert rows(2, str(tmp_path / "checkpoint-1")) != straight[2:]
    pipeline = PipelineSpec("drawn", drawn, command=("tests.test_breaks:drawn",)).make()
    (result,) = run(pipeline, registry().select(["TS902"])).results
    assert str(result.status) == "fail"
    assert "trains on other rows than the uninterrupted run" in result.findings[0].headline
