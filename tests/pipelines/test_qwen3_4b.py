"""The incident at full size, on a GPU with 80 GB: `pytest -m gpu -n0`.

Each pipeline is built by the fixture `pipeline`, which empties the one before: two do not fit. Each
prints what it cost as a line of JSON; TRAINSANITY_RECORD names a file that gets the lines as well.
"""

from __future__ import annotations

import datetime
import inspect
import json
import os
import time
from functools import partial

import pytest

import trainsanity
from fixtures.pipelines import qwen3_4b
from tests.check_snapshots import statuses_of
from trainsanity import PipelineSpec, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.report.json import as_dict

GIB = 2**30

started: dict[str, float] = {}


ROUNDED = {
    "update.survives_rounding": "the incident trained bfloat16 weights; at 1e-5 few of them move"
}


def spec(name: str, expected_failures=ROUNDED, **options) -> PipelineSpec:
    """A pipeline whose building starts a clock and the watch on the device's memory."""

    def build():
        import torch

        # Imports are not what is measured.
        from transformers import AutoModelForSequenceClassification, Trainer  # noqa: F401

        torch.cuda.reset_peak_memory_stats()
        started[name] = time.perf_counter()
        return qwen3_4b.pipeline(**options)

    marks = (pytest.mark.gpu,)
    return PipelineSpec(name, build, marks=marks, expected_failures=expected_failures)


REPAIRED = spec("qwen3_4b:repaired", repair=True)
INCIDENT = spec("qwen3_4b:incident", repair=False)
# Twice the width takes twice the memory for activations, so half the rows.
PAD_TO_512 = spec(
    "qwen3_4b:pad_to_512",
    repair=True,
    pad_to_multiple_of=512,
    per_device_train_batch_size=12,
    gradient_accumulation_steps=2,
)

# float32 weights, gradients and moments of 36 layers take 64 GB before the first activation, so
# this stack of the same layers is a third as deep.
FP32 = spec(
    "qwen3_4b:fp32_weights_12_layers",
    expected_failures={},
    repair=True,
    dtype="float32",
    bf16=True,
    geometry={**qwen3_4b.GEOMETRY, "num_hidden_layers": 12, "max_window_layers": 12},
)

pytestmark = pytest.mark.gpu
indirectly = partial(pytest.mark.parametrize, "pipeline", indirect=True, ids=lambda spec: spec.id)


@pytest.fixture
def record(capsys):
    """Print what a report and its pipeline cost."""

    def write(report, pipeline):
        seconds = time.perf_counter() - started[report.pipeline_id]
        finding = report.diagnosis.finding
        line = json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "pipeline": report.pipeline_id,
                **report.environment,
                "seconds": round(seconds, 1),
                "judging_seconds": round(report.seconds, 1),
                "peak_gib": round(peak_bytes(report) / GIB, 2),
                "measurements": as_dict(report)["measurements"],
                "batch": of_one_batch(pipeline),
                "recording": of_recording(pipeline),
                "ran": report.ran,
                "of": report.total,
                "failed": [r.check.name for r in report.results if r.status is Status.FAIL],
                "accepted": [r.check.name for r in report.results if r.status is Status.XFAIL],
                "moved": {
                    r.check.name: r.observed
                    for r in report.results
                    if r.check.name == "update.survives_rounding"
                },
                "factor": finding.factor if finding else None,
            }
        )
        with capsys.disabled():
            print(f"\n{line}")  # noqa: T201 - for whoever watches
        if path := os.environ.get("TRAINSANITY_RECORD"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    return write


def peak_bytes(report):
    """Each measurement watches from its own beginning."""
    import torch

    peaks = [seen.peak_bytes or 0 for seen in report.passes.values()]
    return max(*peaks, torch.cuda.max_memory_allocated())


def of_one_batch(pipeline):
    """Seconds of one forward + backward of the first step's batch, from the median micro-batch."""
    micro_batches = pipeline.args.gradient_accumulation_steps
    multiple = Session.of(pipeline).measurements.taken("padding").multiple or 1
    seconds = Session.of(pipeline).measurements.taken("padding_times").seconds[multiple]
    return {
        "rows": pipeline.args.per_device_train_batch_size,
        "micro_batches": micro_batches,
        "seconds": round(micro_batches * seconds, 3),
    }


def of_recording(pipeline):
    """Where the recorded steps' seconds went."""
    recording = Session.of(pipeline).measurements.taken("recording")
    return {
        "steps_seconds": round(recording.seconds, 2),
        "snapshot_seconds": round(recording.snapshot_seconds, 2),
        "restore_seconds": round(recording.restore_seconds, 2),
        "snapshot_gib": round(recording.snapshot_bytes / GIB, 2),
    }


def of_the_gate():
    """The checks that are run unless somebody asks for more, and have something to go by.

    The tiny pipeline is of the same kind, and its weights are random, too. Of 24 rows, and not of
    its 4, the order can be turned.
    """
    tiny = {name for name, status in statuses_of("plain").items() if status == "skip"}
    return {check.name for check in registry().select()} - tiny | {"loss.rows_in_any_order"}


def judged(pipeline, expected_failures=ROUNDED):
    """The whole report, and the checks by how they ended; none in an error."""
    report = run(pipeline, registry().select(), expected_failures)
    by_status = {status: set() for status in Status}
    for result in report.results:
        by_status[result.status].add(result.check.name)
    assert not by_status[Status.ERROR], [r for r in report.results if r.status is Status.ERROR]
    return report, by_status


@indirectly([REPAIRED])
def test_repaired(pipeline, record):
    report, by_status = judged(pipeline)
    record(report, pipeline)
    assert by_status[Status.XFAIL] == set(ROUNDED)
    assert by_status[Status.PASS] == of_the_gate() - set(ROUNDED)


# After the one above, whose clock it would run on: what is measured by then is not again.
@trainsanity.parametrize_with_checks(REPAIRED)
def test_sanity(pipeline, check):
    check(pipeline)


@indirectly([FP32])
def test_float32_weights_under_autocast_are_green(pipeline, record):
    report, by_status = judged(pipeline, {})
    record(report, pipeline)
    assert by_status[Status.PASS] == of_the_gate()


@indirectly([INCIDENT])
def test_incident(pipeline, record):
    report, by_status = judged(pipeline)
    record(report, pipeline)
    if not passes_items_on():
        assert by_status[Status.PASS] == of_the_gate() - set(ROUNDED)
        return
    assert by_status[Status.FAIL] == {"loss.matches_reference"}
    assert by_status[Status.BLOCKED] == {
        "gradient.head_closed_form",
        "gradient.matches_autograd",
        "gradient.norm_within_bounds",
        "gradient.step_is_the_weighted_sum",
        "loss.logged_is_a_mean",
    }
    assert report.diagnosis.first_broken_stage == "loss"
    # The model's losses are means in bf16, of which twelve are added.
    assert report.diagnosis.finding.factor == pytest.approx(12, rel=2e-2)
    assert "gradient_accumulation_steps = 12" in report.diagnosis.finding.cause
    assert {"PAD / EOS", "attention mask", "pad_to_multiple_of"} <= set(report.diagnosis.ruled_out)


@indirectly([PAD_TO_512])
def test_pad_to_512_is_seen_by_the_clock(pipeline, record):
    report, by_status = judged(pipeline)
    record(report, pipeline)
    assert by_status[Status.FAIL] == set()
    assert by_status[Status.WARNING] == {"collator.padding_overhead"}
    [finding] = [one for result in report.results for one in result.warnings]
    seen = finding.observed
    assert seen["time_ratio"] > finding.expected["time_ratio_at_most"]
    assert seen["seconds_by_multiple"]["512"] > seen["seconds_by_multiple"]["8"]


def passes_items_on() -> bool:
    """Whether this transformers hands the head num_items_in_batch and leaves dividing to it."""
    from transformers import Qwen3ForSequenceClassification as Head

    parameters = inspect.signature(Head.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
