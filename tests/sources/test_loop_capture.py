"""Scripts with a training loop of their own: judged at their second step, trained no further."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainsanity import Pipeline, UsageError
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.sources.script import judge_script

# What torch says of a scheduler that is stepped too often is right, and not all that there is.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")

LOOPS = Path(__file__).parents[1] / "examples" / "loops"
SUM, ZERO = "gradient.step_is_the_weighted_sum", "gradient.starts_from_zero"
RED = {
    "zero": ZERO,
    "schedule": "schedule.learning_rate_follows",
    "undivided": "loss.logged_is_a_mean",
    "head": "update.optimizer_holds_trainable",
}


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each script in an empty folder, which is empty afterwards: they save at their end."""
    from accelerate.state import AcceleratorState

    # Accelerate keeps its settings for the process: an earlier test's are no script's.
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(tmp_path)
    yield
    assert os.listdir(tmp_path) == []


@functools.cache
def judged(script: str, *arguments: str) -> Report:
    def judge(pipeline: Pipeline) -> Report:
        assert pipeline.captured is not None
        return run(pipeline, registry().select())

    return judge_script(str(LOOPS / script), arguments, judge)


def names(report: Report, *statuses: str) -> set[str]:
    return {r.check.name for r in report.results if str(r.status) in statuses}


def result(report: Report, name: str) -> Any:
    return next(r for r in report.results if r.check.name == name)


def assert_green(report: Report) -> None:
    odd = [r for r in report.results if str(r.status) not in ("pass", "skip")]
    assert not odd, [(r.check.name, str(r.status), r.reason, r.findings) for r in odd]
    assert report.exit_code() == 0


# --- healthy -------------------------------------------------------------------------------------


def test_an_accelerate_loop_is_green_with_checks_that_ran() -> None:
    report = judged("classify.py")
    assert_green(report)
    assert len(names(report, "pass")) > 50
    assert "over 3 micro-batches" in result(report, SUM).message
    assert "slope 1.0000" in result(report, "gradient.head_closed_form").message
    assert "2 steps compared" in result(report, "gradient.head_closed_form").message
    assert "0.00025 in step 2" in result(report, "schedule.learning_rate_follows").message
    assert "max_grad_norm 1 " in result(report, "gradient.clipping").message


@pytest.mark.parametrize("how", ["", "amp", "closure"])
def test_bare_torch_is_green(how: str) -> None:
    report = judged("images.py", *filter(None, [how]))
    assert_green(report)
    assert names(report, "pass") > {SUM, "loss.logged_is_a_mean", "loss.finite"}
    batches = 1 if how == "closure" else 2
    assert f"over {batches} micro-batches" in result(report, SUM).message


# --- planted -------------------------------------------------------------------------------------


def test_a_schedule_of_another_optimizer_is_named() -> None:
    report = judged("classify.py", "apart")
    assert names(report, "fail", "error") == {"schedule.drives_the_optimizer"}


@pytest.mark.parametrize("fault", RED)
def test_a_fault_in_an_accelerate_loop_is_named(fault: str) -> None:
    report = judged("classify.py", fault)
    expected = {"loss.matches_reference"} if fault == "undivided" else {RED[fault]}
    assert names(report, "fail", "error") == expected
    assert report.exit_code() == 1


@pytest.mark.parametrize("fault", [*RED, "eval"])
def test_a_fault_in_bare_torch_is_named(fault: str) -> None:
    report = judged("images.py", fault)
    assert names(report, "fail", "error") == {RED.get(fault, "loop.trains_in_train_mode")}


@pytest.mark.matrix
@pytest.mark.parametrize("fault", RED)
@pytest.mark.parametrize("how", ["amp", "closure"])
def test_a_fault_with_a_scaler_or_a_closure_is_named(how: str, fault: str) -> None:
    if (how, fault) == ("closure", "undivided"):
        pytest.skip("it accumulates nothing")
    report = judged("images.py", how, fault)
    assert names(report, "fail", "error") == {RED[fault]}


LANGUAGE = {
    "unmasked": "loss.next_token_is_unseen",
    "unshifted": "loss.predicts_the_next_token",
    "undivided": "loss.logged_is_a_mean",
}


def test_a_model_that_returns_logits_and_loss_is_judged_without_a_data_loader() -> None:
    report = judged("language.py")
    assert_green(report)
    assert {*LANGUAGE.values(), SUM} <= names(report, "pass")
    assert "over 4 micro-batches" in result(report, SUM).message


@pytest.mark.parametrize("fault", LANGUAGE)
def test_a_fault_of_a_language_model_is_named(fault: str) -> None:
    assert names(judged("language.py", fault), "fail", "warning", "error") == {LANGUAGE[fault]}


APART = "model.rows_stay_apart"


def test_rows_of_a_loop_are_asked_beside_others() -> None:
    report = judged("series.py")
    assert_green(report)
    assert APART in names(report, "pass")


def test_a_recurrent_layer_that_takes_rows_for_time_is_named() -> None:
    assert names(judged("series.py", "mixed"), "fail", "warning", "error") == {APART}


def test_time_in_front_is_no_row() -> None:
    report = judged("series.py", "time_first")
    assert_green(report)
    assert "an entry for each row, in front" in result(report, APART).reason


def test_a_target_among_the_columns_of_a_loop_is_named() -> None:
    inside = "dataset.inputs_hold_no_target"
    assert_green(judged("table.py"))
    assert inside in names(judged("table.py"), "pass")
    report = judged("table.py", "target")
    assert names(report, "fail", "warning", "error") == {inside}
    assert "argument 1[4]" in result(report, inside).findings[0].headline
    assert names(judged("table.py", "scaled"), "fail", "warning", "error") == {inside}
    assert str(result(judged("table.py", "scaled"), inside).status) == "warning"
    assert_green(judged("table.py", "exercise"))


def test_a_loop_that_leaves_its_model_in_eval_mode_is_a_warning() -> None:
    assert_green(judged("dropping.py"))
    report = judged("dropping.py", "left")
    assert names(report, "fail", "error") == set()
    assert names(report, "warning") == {"loop.trains_in_train_mode"}
    assert "dropping.py:33" in result(report, "loop.trains_in_train_mode").findings[0].headline


def test_what_a_fault_says() -> None:
    zero = result(judged("images.py", "zero"), ZERO).findings[0]
    assert "still there as step 2 begins" in zero.headline
    undivided = result(judged("images.py", "undivided"), RED["undivided"]).findings[0]
    assert undivided.factor == pytest.approx(2, rel=1e-3)
    assert "gradient_accumulation_steps" in undivided.cause
    assert undivided.fix == "loss = loss / 2 before backward(), and nowhere else"
    assert "sends losses backward" in undivided.headline
    scheduled = result(judged("images.py", "schedule"), RED["schedule"]).findings[0]
    assert "once per optimizer step" in scheduled.fix
    assert scheduled.cause == (
        "the scheduler is stepped 2 times for one optimizer step, once per micro-batch"
    )


@pytest.mark.parametrize(("end", "severity"), [("middle", "failure"), ("end", "warning")])
def test_a_schedule_by_the_batch_is_held_against_the_epochs(end: str, severity: str) -> None:
    report = judged("odd.py", f"scheduled_by_the_batch_to_the_{end}")
    (finding,) = result(report, RED["schedule"]).findings
    assert str(finding.severity) == severity
    said = "once per micro-batch; it was built for the batches of 1 of 2 epochs"
    assert (said in finding.cause) == (end == "middle")


# --- odd and healthy -----------------------------------------------------------------------------

JUDGED = [
    "two_optimizers",
    "a_probe_first",
    "epochs_of_three",
    "one_step_an_epoch",
    "compiled",
    "overflows",
    "distributed",
    "weighted_parts",
]
NOT_JUDGED = {
    "adversaries": "several modules",
    "two_losses": "no constant times the model's own",
    "sums": "no constant times the model's own",
    "sliced": "not one for each batch",
}


@pytest.mark.parametrize("name", JUDGED)
def test_an_odd_loop_is_green(name: str) -> None:
    report = judged("odd.py", name)
    assert_green(report)
    assert SUM in names(report, "pass")


@pytest.mark.parametrize("name", NOT_JUDGED)
def test_where_no_loss_is_known_accumulation_was_not_judged(name: str) -> None:
    report = judged("odd.py", name)
    assert names(report, "fail", "error", "blocked", "warning") == set()
    assert NOT_JUDGED[name] in result(report, SUM).reason
    assert report.exit_code() == 3


def test_a_loss_of_several_terms_is_held_against_what_was_sent_backward() -> None:
    said = result(judged("odd.py", "weighted_parts"), SUM).message
    assert said.startswith("the step's gradient is 1.0000 times that of what its backward pass was")
    report = judged("odd.py", "weighted_parts_halved_by_a_hook")
    (finding,) = result(report, SUM).findings
    assert (str(finding.severity), round(finding.factor, 4)) == ("failure", 0.5)
    assert report.exit_code() == 1


def notes(report: Report) -> str:
    return "; ".join(report.environment["notes"])


def test_steps_that_a_scaler_skips_are_no_steps() -> None:
    assert "GradScaler skipped 20 steps" in notes(judged("odd.py", "overflows"))


def test_rows_with_names_are_judged_and_a_part_without_use_is_a_warning() -> None:
    report = judged("odd.py", "named_rows")
    assert names(report, "fail", "error", "blocked") == set()
    assert names(report, "warning") == {"gradient.reaches_every_parameter"}
    assert "dataset.no_duplicates" in names(report, "pass")


def test_statistics_of_a_frozen_body_that_is_saved_whole_are_a_warning() -> None:
    report = judged("odd.py", "frozen_statistics")
    assert names(report, "fail", "error", "blocked") == set()
    assert names(report, "warning") == {"update.frozen_stays"}
    (finding,) = result(report, "update.frozen_stays").findings
    assert finding.observed == 2  # the running mean and variance
    assert "not where its head is saved alone" in finding.cause


def test_the_larger_model_is_judged() -> None:
    report = judged("odd.py", "a_probe_first")
    assert report.environment["notes"][1].startswith("the script steps 1 more optimizer")
    assert report.facts["parameters"] == 12 * 64 + 64 + 64 * 4 + 4


# --- refused -------------------------------------------------------------------------------------


def test_tensors_of_no_module_are_refused() -> None:
    with pytest.raises(UsageError, match="belong to no torch"):
        judged("odd.py", "by_hand")


def test_an_optimizer_without_a_gradient_is_refused_for_that() -> None:
    with pytest.raises(UsageError, match=r"no backward pass reaches the tensors .* Adam steps"):
        judged("odd.py", "detached_maker")


def test_a_script_without_a_step_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("script") / "idle.py"
    script.write_text("import torch\n")
    with pytest.raises(UsageError, match="took no optimizer step of its own"):
        judge_script(str(script), [], lambda pipeline: pytest.fail("judged"))


def test_one_step_alone_is_judged_at_the_end(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path_factory.mktemp("script") / "one.py"
    script.write_text(
        "import sys, torch\n"
        "model = torch.nn.Linear(3, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "torch.nn.functional.mse_loss(model(torch.ones(4, 3)), torch.ones(4, 2)).backward()\n"
        "optimizer.step()\n"
        "sys.exit()\n"
    )
    report = judge_script(str(script), [], lambda p: run(p, registry().select()))
    assert names(report, "fail", "error", "blocked") == set()
    assert "the one optimizer step" in notes(report)


def patched_places() -> dict[str, Callable[..., Any]]:
    import torch
    from torch.utils.data import dataloader

    return {
        "backward": torch.autograd.backward,
        "loss": torch.nn.functional.cross_entropy,
        "clip": torch.nn.utils.clip_grad._clip_grads_with_norm_,
        "optimizer": torch.optim.Optimizer.__init__,
        "scaler": torch.amp.GradScaler.step,
        "loader": dataloader.DataLoader.__iter__,
        "schedule": torch.optim.lr_scheduler.LRScheduler.step,
    }


def test_torch_is_left_as_it_was() -> None:
    module = importlib.import_module("torch.nn.modules.module")
    optimizer = importlib.import_module("torch.optim.optimizer")
    before = patched_places()
    judged.__wrapped__("images.py")
    assert patched_places() == before
    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks
    assert not optimizer._global_optimizer_pre_hooks
    assert not optimizer._global_optimizer_post_hooks


@pytest.mark.parametrize(
    ("kind", "red"),
    [("AdamW", {"update.one_step_is_taken"}), ("SGD", set()), ("by turns", set())],
)
def test_an_optimizer_made_in_each_step_loses_what_moments_it_has(kind, red):
    report = judged("renewed.py", kind)
    assert names(report, "fail") == red
    assert not names(report, "warning", "error")
