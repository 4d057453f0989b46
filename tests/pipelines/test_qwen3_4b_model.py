"""The model checks at full size in bf16, on a GPU with 80 GB: `pytest -m gpu -n0`.

Green on the healthy pipeline, with the floor that arithmetic makes there beside the effects that
are looked for; red on three faults of the kind that leaves the loss looking normal.  Each pipeline
prints what it cost and measured as a line of JSON; TRAINSANITY_RECORD names a file that gets the
lines as well.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from dataclasses import replace

import pytest

from fixtures.pipelines import qwen3_4b
from trainsanity import PipelineSpec, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.measurements.model.probes import difference, relative
from trainsanity.types import Skip

GIB = 2**30
HEADROOM = 4 * GIB
"""What the checks may take on the device beyond the model: 0.8 GiB is the gradient of an embedding
of 151,936 rows, the rest activations of three rows of 64 tokens."""

EOS = 151_645

pytestmark = pytest.mark.gpu


def all_ones_on_the_left():
    """Padding on the left, a collator that says 1 everywhere."""
    from fixtures.pipelines.collators import MaskAllOnes

    pipeline = qwen3_4b.repaired()
    pipeline.tokenizer.padding_side = "left"
    collator = MaskAllOnes(pipeline.tokenizer, pad_to_multiple_of=8)
    pipeline.data_collator = pipeline.trainer.data_collator = collator
    return pipeline


def another_pad():
    """The collator pads on the right with EOS, the model's config knows PAD."""
    pipeline = qwen3_4b.repaired()
    collate, pad = pipeline.data_collator, pipeline.tokenizer.pad_token_id

    def with_eos(rows):
        made = collate(rows)
        made["input_ids"][made["attention_mask"] == 0] = EOS
        return made

    pipeline.model.config.pad_token_id = pad
    pipeline.data_collator = pipeline.trainer.data_collator = with_eos
    return pipeline


def last_column():
    """The last column is read, padding or not."""
    from fixtures.controls.models import pooling

    pipeline = qwen3_4b.repaired()
    pooling(pipeline.trainer, lambda states, mask: mask.shape[1] - 1 + 0 * mask.sum(-1))
    return pipeline


def judged(name, build, select):
    """The report of a pipeline and what it measured, the pipeline gone when it is done."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    pipeline = PipelineSpec(f"qwen3_4b:{name}", build).make()
    start, weights = time.perf_counter(), torch.cuda.memory_allocated()
    report = run(pipeline, select)
    torch.cuda.synchronize()
    # Each measurement watches from its own beginning.
    peaks = [seen.peak_bytes or 0 for seen in report.passes.values()]
    peak = max(*peaks, torch.cuda.max_memory_allocated())
    line = {
        "date": datetime.date.today().isoformat(),
        "pipeline": report.pipeline_id,
        **report.environment,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": round(peak / GIB, 2),
        "measured_seconds": {k: round(v, 2) for k, v in report.measured.items()},
        "ran": report.ran,
        "of": len(report.results),
        "failed": [r.check.name for r in report.results if r.status is Status.FAIL],
        "probes": seen_by_probes(pipeline),
        "said": {r.check.name: r.message or r.reason for r in report.results},
    }
    if path := os.environ.get("TRAINSANITY_RECORD"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
    print(f"\n{json.dumps(line)}")  # noqa: T201 - for whoever watches
    by_status = {status: set() for status in Status}
    for result in report.results:
        by_status[result.status].add(result.check.name)
    assert not by_status[Status.ERROR], [r for r in report.results if r.status is Status.ERROR]
    return by_status, line, peak - weights


def seen_by_probes(pipeline):
    """Floor and effects, as numbers."""
    try:
        probes = Session.of(pipeline).measurements.taken("probes")
    except Skip as skip:
        return str(skip)
    own = probes.own
    return {
        "logits_noise": probes.logits_noise,
        "logits_allowed": probes.allowed_logits,
        "states_noise": probes.states_noise,
        "states_allowed": probes.allowed_states,
        "another_last_token": difference(probes.changed.logits, own.logits),
        "wider": difference(probes.wider.logits, own.logits),
        "other_side": {k: relative(v.states, own.states) for k, v in probes.elsewhere.items()},
        "refilled": relative(probes.refilled.states, own.states),
        "unmasked": relative(probes.unmasked.states, own.states),
    }


@pytest.fixture(autouse=True)
def emptied():
    """One pipeline at a time fits."""
    yield
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


WITHOUT_OCCASION = {
    "model.weights_are_the_checkpoints",
    "model.documents_are_apart",
    "model.padding_is_not_pooled",
}
"""The weights are random for want of a checkpoint, a row is one text, and token models are asked
by model.padding_ignored."""


def test_healthy():
    by_status, line, taken = judged("repaired", qwen3_4b.repaired, registry().select(["model"]))
    assert by_status[Status.SKIP] <= WITHOUT_OCCASION
    assert not set().union(*(by_status[s] for s in Status if s not in (Status.PASS, Status.SKIP)))
    probes = line["probes"]
    assert probes["another_last_token"] > 2 * probes["logits_allowed"]
    assert taken < HEADROOM


FAULTS = {
    "another_pad": (another_pad, "collator.padding_value", "model.right_token_pooled"),
    "all_ones_on_the_left": (
        all_ones_on_the_left,
        "collator.mask_is_exact",
        "model.batch_equals_single",
    ),
    "last_column": (last_column, "model.read_at_the_end", "model.read_at_the_end"),
}
"""By name: what tells it first, and which check of the model sees it by itself."""


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name):
    build, first, alone = FAULTS[name]
    by_status, *_ = judged(name, build, registry().select(["collator", "model"]))
    assert by_status[Status.FAIL] == {first}, by_status
    unblocked = [replace(check, requires=()) for check in registry().select([alone])]
    by_status, *_ = judged(f"{name}, {alone} by itself", build, unblocked)
    assert by_status[Status.FAIL] == {alone}, by_status
