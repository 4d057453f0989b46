"""Two processes over gloo on the CPU: one report, the whole batch, the factor named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.faults import all_faults
from fixtures.processes import ACCELERATE, reported, results_of, started
from tests.check_snapshots import assert_results, assert_statuses
from tests.reports import assert_examples_are_current

pytestmark = [pytest.mark.distributed, pytest.mark.long]

FAULTS = {fault.id: fault for fault in all_faults() if fault.processes == 2}

OF_A_KIND = {
    "left_out_of_the_average",
    "loader_not_prepared",
    "divided_twice_over",
    "masked_lm_by_steps_and_processes",
    "stepped_per_process",
}
"""Faults for which one of the others stands: each costs two processes some seconds."""

HEALTHY = (
    "healthy",
    "evaluated_by_all",
    "other_heads",
    "sharded_healthy",
    "sharded_and_loaded_by_one",
)


def example(name: str) -> str:
    return f"tests.examples.processes:{name}"


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    """What two processes say of each fault and of each healthy run, one after the other."""
    targets = {name: fault.command for name, fault in FAULTS.items() if name not in OF_A_KIND}
    targets |= {name: example(name) for name in (*HEALTHY, "incident", "sharded_factor")}
    return told(targets)


@pytest.fixture(scope="module")
def further_reports() -> dict[str, Any]:
    """The same of the faults for which others stand."""
    return told({name: FAULTS[name].command for name in sorted(OF_A_KIND)})


def told(targets: dict[str, str]) -> dict[str, Any]:
    said, process = reported(list(targets.values()), timeout=600)
    # The first process alone tells.
    lines = [line.partition(": ")[0] for line in process.stdout.splitlines()]
    assert sum(line in targets.values() for line in lines) == 2 * len(targets), process.stdout
    return dict(zip(targets, said, strict=True))


def names(report: Any, *statuses: str) -> set[str]:
    return {row["name"] for row in report["results"] if row["status"] in statuses}


def by_name(report: Any) -> dict[str, Any]:
    return {row["name"]: row for row in report["results"]}


def assert_kills(fault, report):
    assert names(report, "fail") == fault.caught_by
    assert not names(report, "error")
    assert not names(report, "abstain")
    results = [replace(result, pipeline_id=fault.id) for result in results_of(report)]
    assert_examples_are_current(fault.id, results)
    assert_results(fault.id, [r for r in results if r.check.name in fault.caught_by])


def assert_green(name, report):
    assert names(report, "fail", "error", "blocked", "abstain") == set()
    assert_statuses(f"2 processes, {name}", results_of(report))
    rows = by_name(report)
    assert report["facts"]["world_size"] == 2
    # Two processes, two micro-batches each, four rows in each.
    assert "mean over the 16 examples" in rows["loss.matches_reference"]["message"]
    assert rows["gradient.head_closed_form"]["observed"]["slope"] == pytest.approx(1, abs=1e-4)
    assert rows["gradient.matches_autograd"]["observed"] < 1e-4
    assert "read 152 + 152 of 300 rows" in rows["loop.ranks_share_the_data"]["message"]


def assert_healthy(name, report):
    assert_green(name, report)


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - OF_A_KIND))
def test_fault_kills_exactly(name, reports):
    assert_kills(FAULTS[name], reports[name])


@pytest.mark.corpus
@pytest.mark.parametrize("name", sorted(OF_A_KIND))
def test_a_fault_of_a_kind_kills_exactly(name, further_reports):
    assert_kills(FAULTS[name], further_reports[name])


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_green(name, reports):
    assert_healthy(name, reports[name])


def test_runs_are_judged_by_all_processes_together():
    """DistributedDataParallel averages gradients, others weights, and some count all tokens."""
    healthy = ("averaged_now_and_then", "average_undone_for_tokens", "optimizer_in_shards")
    summed = "fixtures.field.processes:gradients_summed"
    targets = [f"fixtures.field.processes_healthy:{name}" for name in healthy]
    # evaluate() divides by the tokens of both processes' batches, which differ.
    counted = "fixtures.field.processes_data:tokens_averaged_per_process_ok"
    targets.append(example("evaluated_by_super"))
    *green, red = reported([*targets, counted, summed], timeout=600)[0]
    told = by_name(green[-2])["loop.ranks_evaluate_together"]
    assert (told["status"], "the library's own" in told["reason"]) == ("skip", True)
    assert by_name(green[-1])["loss.train_equals_eval"]["status"] == "pass"
    for report in green:
        assert names(report, "fail", "error", "blocked", "abstain") == set()
        assert by_name(report)["gradient.matches_autograd"]["status"] == "pass"
        assert by_name(report)["loop.ranks_hold_equal_weights"]["status"] == "pass"
    assert names(red, "fail") == {"gradient.head_closed_form"}
    head = by_name(red)["gradient.head_closed_form"]
    assert head["findings"][0]["factor"] == pytest.approx(2, rel=1e-3)
    assert "world_size" in head["findings"][0]["cause"]


def test_the_runs_that_several_processes_can_take_together():
    (report,), _ = reported([example("cheap")], "--select=loop")
    alone = {row["name"]: row["reason"] for row in report["results"] if row["status"] == "skip"}
    assert names(report, "fail", "error", "blocked", "abstain") == set()
    # The loader has no workers that could read a stream twice.
    assert "0 workers" in alone.pop("loop.workers_split_the_stream")
    # What processes gather or save together is said so; no check here is silent about why.
    assert "gathered by the Trainer" in alone.pop("loop.predict_keeps_order")
    for name in ("loop.load_is_whole", "loop.tokenizer_is_saved"):
        assert "saving by several processes" in alone.pop(name)
    assert "budget of ranks" in alone.pop("loop.ranks_are_allocated")
    assert "the library's own" in alone.pop("loop.ranks_evaluate_together")
    assert alone.pop("loop.sampler_reaches_the_rows")
    # These start processes of their own, ask in which order one reads, or judge a metric.
    assert set(alone) == {
        "loop.resume_equals_straight",
        "loop.survives_killed_save",
        "loop.epoch_covers_data",
        "loop.rows_are_mixed",
        "loop.metric_prefers_the_right",
        "loop.eval_loss_is_a_mean",
        "loop.evaluates_in_eval_mode",
        "loop.evaluation_keeps_weights",
        "loop.answers_follow_prompts",
    }
    assert all("in one process" in reason for reason in alone.values())


def test_accelerate_launch_is_another_way_in():
    (report,), process = reported([example("healthy")], "--select=loss", launcher=ACCELERATE)
    assert process.returncode == 0, process.stderr
    assert report["facts"]["world_size"] == 2
    assert names(report, "fail", "error", "blocked") == set()


def test_the_factor_is_accumulation_times_processes(reports):
    from fixtures.pipelines import tiny_qwen3

    if not tiny_qwen3.incident(rows=48).model_accepts_loss_kwargs:
        pytest.skip("this transformers divides the loss of this model by itself")
    loss = by_name(reports["incident"])["loss.matches_reference"]
    assert loss["factor"] == pytest.approx(4, rel=1e-3)
    assert "gradient_accumulation_steps x world_size = 2 x 2" in loss["cause"]
    assert names(reports["incident"], "fail") == {"loss.matches_reference"}
    # evaluate() accumulates nothing: the same defect, by the processes alone.
    evaluated = by_name(reports["incident"])["loss.train_equals_eval"]
    assert evaluated["status"] == "blocked"
    assert "the same repair, model.accepts_loss_kwargs = False" in evaluated["reason"]
    assert evaluated["factor"] == pytest.approx(2, rel=1e-3)
    assert "forward takes **kwargs" in evaluated["cause"]
    assert "accepts_loss_kwargs = False" in evaluated["fix"]


def test_the_factor_is_seen_through_fsdp2(reports):
    report = reports["sharded_factor"]
    assert names(report, "fail") == {"loss.matches_reference"}
    assert names(report, "error", "abstain") == set()
    loss = by_name(report)["loss.matches_reference"]
    assert loss["factor"] == pytest.approx(2, rel=1e-3)
    assert "world_size = 2" in loss["cause"]


def test_what_one_process_sees_counts_for_both():
    (report,), process = reported([example("one_rank_is_nan")], "--select=loss.finite")
    assert process.returncode == 1
    finite = by_name(report)["loss.finite"]
    assert finite["status"] == "fail"
    assert "process 1" in finite["where"]


def test_a_process_that_raises_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    options = "--select=loss.finite", f"--json={tmp_path / 'report.json'}"
    ended = started([example("one_rank_raises")], *options)
    assert ended.returncode != 0
    said = next(line for line in ended.stderr.splitlines() if "trainsanity: error" in line)
    assert "process 1 failed and the others wait for it" in said
    assert "no room for this batch" in said
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_is_named_and_holds_nobody_up(tmp_path: Path) -> None:
    options = "--select=loss.finite", f"--json={tmp_path / 'report.json'}"
    ended = started([example("one_rank_dies")], *options)
    assert ended.returncode != 0
    # torchrun's own words: it ends the others.
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert "rank      : 1 (local_rank: 1)" in ended.stderr
    assert not list(tmp_path.iterdir())
