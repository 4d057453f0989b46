"""Supervised, preferred and rewarded fine-tuning at full size: `pytest -m gpu -n0`, 80 GB.

Each prints what it cost as a line of JSON; TRAINSANITY_RECORD names a file that gets the lines.
"""

from __future__ import annotations

import datetime
import gc
import importlib.util
import json
import os
import time

import pytest

import trainsanity
from tests.examples import language_full_size
from trainsanity import Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.report.json import as_dict

pytestmark = [
    pytest.mark.gpu,
    # TRL asks transformers by the name that the newest of it deprecates.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
]

GIB = 2**30
CARD = 80
SECONDS = 120
"""What the issue allows for building and judging one."""

LAW = 1.5
"""Asking each micro-batch again may take so many times the step itself."""

HEALTHY = ("sft_lora", "sft_packed_lora", "dpo_lora", "grpo_lora")
NEEDS = {"sft_qlora": "bitsandbytes", "sft_liger": "liger_kernel", "sft_compiled": "triton"}
TIMES = ("sft_lora_times_accumulation", "dpo_lora_times_accumulation")


@pytest.fixture
def judge(capsys):
    """Build and judge one; return its report and the recorded steps."""

    def one(name):
        import torch

        torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        spec = trainsanity.PipelineSpec(name, getattr(language_full_size, name))
        kept = []

        def visit(pipeline):
            report = run(pipeline, registry().select())
            kept.append((report, Session.of(pipeline).measurements.taken("recording")))

        spec.visit(visit)
        [(report, recording)] = kept
        line = told(name, report, recording, time.perf_counter() - begin)
        with capsys.disabled():
            print(f"\n{json.dumps(line)}")  # noqa: T201 - for whoever watches
        if path := os.environ.get("TRAINSANITY_RECORD"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
        return report, line

    yield one
    gc.collect()
    if (torch := __import__("torch")).cuda.is_available():
        torch.cuda.empty_cache()


def told(name, report, recording, seconds):
    """What one was judged as, and what that cost."""
    import torch

    rows = as_dict(report)["measurements"]
    peaks = [row["peak_bytes"] or 0 for row in rows]
    return {
        "date": datetime.date.today().isoformat(),
        "pipeline": f"{os.environ.get('TRAINSANITY_GEOMETRY', '4B')} {name}",
        **report.environment,
        "kind": "language",
        "seconds": round(seconds, 1),
        "judging_seconds": round(report.seconds, 1),
        "measured_seconds": round(sum(report.measured.values()), 1),
        "peak_gib": round(max(*peaks, torch.cuda.max_memory_allocated()) / GIB, 2),
        "step_seconds": round(recording.first.seconds, 3),
        "law_seconds": round(recording.own.seconds, 3),
        "ran": report.ran,
        "of": report.total,
        **{
            status: sorted(r.check.name for r in report.results if r.status is Status[status])
            for status in ("FAIL", "WARNING", "BLOCKED")
        },
        "errors": {r.check.name: r.reason for r in report.results if r.status is Status.ERROR},
        "factors": {
            one.check.name: [found.factor for found in one.findings if found.factor]
            for one in report.results
            if any(found.factor for found in one.findings)
        },
        "slowest": {
            row["name"]: round(row["seconds"], 1)
            for row in sorted(rows, key=lambda row: -row["seconds"])[:8]
        },
    }


def held_to_the_card(line):
    assert not line["errors"]
    assert line["peak_gib"] < CARD
    assert line["seconds"] <= SECONDS


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_is_green(judge, name):
    _, line = judge(name)
    held_to_the_card(line)
    assert line["FAIL"] == []
    assert line["law_seconds"] <= LAW * line["step_seconds"]


@pytest.mark.parametrize("name", NEEDS)
def test_quantised_and_compiled_are_green(judge, name):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    _, line = judge(name)
    held_to_the_card(line)
    assert line["FAIL"] == []


@pytest.mark.parametrize("name", TIMES)
def test_accumulation_is_named(judge, name):
    report, line = judge(name)
    held_to_the_card(line)
    assert set(line["FAIL"]) & {"loss.matches_reference", "loss.logged_is_a_mean"}
    assert report.diagnosis.finding.factor == pytest.approx(4, rel=1e-3)
