"""The clock, shorter batches, variables as libraries have read them, memory at the most."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from trainsanity.checks.speed.what_is_asked_is_used import what_is_asked_is_used
from trainsanity.engine.facts import settings_of, variables
from trainsanity.engine.session import Session
from trainsanity.measurements.speed.clock import Clock
from trainsanity.measurements.speed.intent import Intent
from trainsanity.measurements.speed.memory import Peak
from trainsanity.measurements.speed.shorter import shortened
from trainsanity.pipeline import Pipeline
from trainsanity.types import Finding

CPU = torch.device("cpu")


def test_a_part_is_told_without_those_inside_it():
    clock = Clock(CPU)
    with clock.timing("outer"):
        time.sleep(0.05)
        with clock.timing("inner"):
            time.sleep(0.2)
    assert clock.parts["inner"] >= 0.2
    assert 0.05 <= clock.parts["outer"] < 0.2


def test_a_clock_that_tells_no_parts_apart_notes_none():
    clock = Clock(CPU)
    clock.apart = False
    with clock.timing("outer"):
        pass
    assert not clock.parts


def batch(mask, **more):
    mask = torch.tensor(mask)
    return {"input_ids": mask * 7, "attention_mask": mask, "labels": torch.zeros(len(mask)), **more}


@pytest.mark.parametrize("left", [False, True])
def test_columns_of_padding_are_cut_on_the_side_that_has_them(left):
    row = [0] * 20 + [1] * 12 if left else [1] * 12 + [0] * 20
    made = shortened(batch([row, row]))
    assert made["input_ids"].shape == made["attention_mask"].shape == (2, 16)  # 12, rounded to 8
    assert made["attention_mask"].sum() == 24
    assert made["labels"].shape == (2,)


@pytest.mark.parametrize(
    "given",
    [
        batch([[1] * 32]),  # nothing is padded
        batch([[0] * 8 + [1] * 8 + [0] * 16]),  # on both sides
        batch([[0] * 32]),  # nothing is there
        batch([[1] * 8 + [0] * 24], other=torch.zeros(1, 32, 32)),  # which axis would be cut?
        {"input_ids": torch.ones(1, 32)},
    ],
)
def test_what_cannot_be_cut_is_left(given):
    assert shortened(given) is None


def test_the_most_memory_is_seen_though_it_is_free_again():
    peak = Peak(CPU)
    before = peak.read()
    # Not malloc's: in a process that has freed much, that block is resident already.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"1" * len(block))
    assert peak.read() - before > 48 * 2**20
    assert peak.available > 0


def plain_intent(**changes):
    bare = Intent({}, {"sdpa": 2}, "bfloat16", "a device", (8, 0))
    return [*what_is_asked_is_used(replace(bare, **changes))]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, 0),
        ({"capability": (7, 5)}, 1),
        ({"capability": (7, 5), "sixteen_bits": "float16"}, 0),
        ({"capability": None}, 0),
        ({"attention": {"config": "flash_attention_2"}}, 1),
        ({"attention": {"config": "flash_attention_2"}, "attention_used": {}}, 0),
        (
            {
                "attention": {"config": "flash_attention_2"},
                "attention_used": {"kernels-community/flash-attn2": 3},
            },
            0,
        ),
    ],
)
def test_bfloat16_and_attention_on_both_sides_of_the_bound(changes, found):
    assert sum(isinstance(one, Finding) for one in plain_intent(**changes)) == found


AGREE = """
import os, sys
if {first}:
    import torch
os.environ["OMP_NUM_THREADS"] = "3"
import torch
torch.set_num_threads(2)
from trainsanity.measurements.speed.intent import read_variables
for one in read_variables(None).variables:
    print(one.name, one.value, one.in_use, one.agrees)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="which OpenMP is loaded is read in /proc")
@pytest.mark.parametrize("first", [True, False])
def test_a_variable_counts_if_it_is_set_before_the_library_is_loaded(first):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    ended = subprocess.run(
        [sys.executable, "-c", AGREE.format(first=first)],
        env={**environment, "OMP_NUM_THREADS": "1"} if first else environment,
        capture_output=True,
        text=True,
        check=True,
    )
    read = "1 False" if first else "3 True"
    assert f"OMP_NUM_THREADS 3 {read}" in ended.stdout


def test_secrets_are_no_settings(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_TOKEN", "hush")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    found = variables()
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert "HF_DATASETS_TOKEN" not in found


def test_settings_are_read_quickly_and_import_nothing():
    pytest.importorskip("tiktoken")
    from fixtures.pipelines import tiny_qwen3

    pipeline = Pipeline.from_trainer(tiny_qwen3.repaired())
    before = set(sys.modules)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        found = settings_of(pipeline)
        seconds.append(time.perf_counter() - begin)
    assert set(sys.modules) == before
    assert min(seconds) < 0.02
    assert not [group for group, values in found.items() if "unreadable" in values]
    assert found["attention"] == {"in_use": "sdpa", "config": "sdpa"}
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["loader"]["pad_to_multiple_of"] == 8
    assert Session.of(pipeline).environment["settings"].keys() == found.keys()
