"""How often the model runs, counted from outside, and that nothing is asked twice."""

from __future__ import annotations

import queue
from collections import Counter

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fixtures.faults import HEALTHY, healthy
from trainsanity.engine.progress import about
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue, measurement
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.pass_counter import Passes, counted
from trainsanity.pipeline import Pipeline
from trainsanity.report.json import as_dict
from trainsanity.report.text import render
from trainsanity.types import Cost

MICRO_BATCHES = HEALTHY["gradient_accumulation_steps"]
STEPS = 2
AT_THE_PEAK = 1
"""The first micro-batch once more, after a step at the peak rate."""

TRIALS = 2
"""Steps at the peak rate and in the middle of the warm-up, taken back."""
ROWS = 4
"""In a micro-batch."""
LAWS_BACKWARD = MICRO_BATCHES + 2
"""Each micro-batch as a step of its own; the first before and after an exchange of labels."""
LAWS = LAWS_BACKWARD + 1 + ROWS + 1
"""The same, and without gradients: the first as it came, its rows one by one, and together."""


@pytest.fixture(scope="module")
def judged():
    """A report, all calls of the model while it was made, and how many passes there were."""
    pipeline = Pipeline.from_trainer(healthy())
    # A list would be put back: what a hook of the model holds is state of the pipeline.
    calls, asking = queue.SimpleQueue(), [""]
    Session.of(pipeline).measurements.on_start = lambda name: asking.__setitem__(0, name)

    def note(model, _, named):
        inputs = {name: hashes([v])[0] if torch.is_tensor(v) else v for name, v in named.items()}
        inputs.pop("labels", None)
        weights = tuple(hashes(model.parameters()))
        how = (model.training, torch.is_grad_enabled(), model.config._attn_implementation)
        calls.put((asking[0], str(sorted(inputs.items())), weights, how))

    handle = pipeline.model.register_forward_pre_hook(note, with_kwargs=True)
    with counted(pipeline.model) as everything:
        report = run(pipeline, registry().select())
    handle.remove()
    return report, [calls.get() for _ in range(calls.qsize())], everything


def test_what_the_measurements_took_is_all_that_was_taken(judged):
    report, calls, everything = judged
    for field in ("forwards", "backwards", "optimizer_steps"):
        assert sum(getattr(seen, field) for seen in report.passes.values()) == getattr(
            everything, field
        )
    assert everything.forwards == len(calls)
    recorded = STEPS * MICRO_BATCHES
    assert report.passes["recording"] == Passes(
        recorded + LAWS + AT_THE_PEAK, recorded + LAWS_BACKWARD, STEPS + TRIALS
    )
    # Once more each, and the first at another scale, which shows what rounding does.
    assert report.passes["replay"] == Passes(MICRO_BATCHES + 1, MICRO_BATCHES + 1)
    assert report.passes["forward"] == Passes(MICRO_BATCHES)
    assert report.passes["scan"] == Passes()


def test_no_question_is_asked_twice(judged):
    _, calls, _ = judged
    asked = {}
    for name, *question in calls:
        asked.setdefault(str(question), Counter())[name] += 1
    twice = [counter for counter in asked.values() if counter.total() > 1]
    # The same rows at the same weights: what the Trainer makes of them is held against what
    # differentiation makes of them; and the laws ask on purpose what the step was given, to hold
    # it against itself.
    assert sorted(twice, key=str) == sorted(
        [
            # Trained on, as a step of its own, and around an exchange of labels.
            Counter(recording=1 + 1 + 2, replay=2),
            *[Counter(recording=1 + 1, replay=1)] * (MICRO_BATCHES - 1),
            # As the batch came, and as the rows that were asked one by one: here these are all.
            Counter(recording=2),
            # One batch is asked twice to see whether evaluation is repeatable.
            Counter(probes=2),
            # The whole batch, by what knows its items and by what takes any model.
            Counter(forward=1, companions=1),
            # Three draws of a loss in evaluation, the last of other random numbers.
            Counter(scored=1 + 3),
        ],
        key=str,
    )


def test_the_report_tells_of_the_passes(judged):
    report, _, everything = judged
    text = " ".join(render(report).split())
    assert f"passes {everything.forwards} forwards (" in text
    recorded = STEPS * MICRO_BATCHES + LAWS_BACKWARD
    assert f"{everything.backwards} backwards (recording {recorded}, replay" in text
    assert f"{STEPS + TRIALS} optimizer steps (recording {STEPS + TRIALS})" in text
    rows = {row["name"]: row for row in as_dict(report)["measurements"]}
    assert rows["replay"]["backwards"] == MICRO_BATCHES + 1
    assert rows["replay"]["peak_bytes"] is None
    assert sum(row["forwards"] for row in rows.values()) == everything.forwards


def test_a_backward_pass_within_one_is_part_of_it():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with counted(model) as seen:
        rows = torch.ones(1, 2, requires_grad=True)
        checkpoint(model, rows, use_reentrant=True).sum().backward()
        torch.autograd.grad(model(rows).sum(), rows)
        optimizer.step()
    # The model itself is what is computed again here, so its second call is one, too.
    assert seen == Passes(3, 2, 1)
    model(rows).sum().backward()
    optimizer.step()
    assert seen == Passes(3, 2, 1)


def test_a_measurement_that_asks_for_another_is_not_counted_for_its_passes(monkeypatch):
    pipeline = Pipeline.from_trainer(healthy())
    measurements = Session.of(pipeline).measurements
    monkeypatch.setattr("trainsanity.engine.store._catalogue", dict(catalogue()))

    @measurement(Cost.FORWARD)
    def once(pipeline):
        pipeline.model(input_ids=torch.ones(1, 2, dtype=torch.long))

    @measurement(Cost.FORWARD)
    def outer(pipeline):
        pipeline.model(input_ids=torch.ones(1, 3, dtype=torch.long))
        measurements.get("once")

    measurements.get("outer")
    assert [measurements.passes[name].forwards for name in ("outer", "once")] == [1, 1]
    assert measurements.seconds["outer"] > 0


def test_the_passes_that_measurements_expect_are_about_those_that_they_take(judged):
    pipeline = Pipeline.from_trainer(healthy())
    taken = judged[0].passes
    expected = sum(catalogue()[name].forwards(pipeline) for name in taken)
    actual = sum(seen.forwards + 2 * seen.backwards for seen in taken.values())
    assert actual / 2 < expected < actual * 2


def test_what_is_left_is_told_at_the_pace_of_what_was_taken():
    measurements = Session.of(Pipeline.from_trainer(healthy())).measurements
    wanted = ["replay"]
    assert measurements.seconds_left(wanted) is None
    assert about(None) == ""
    measurements.passes["forward"] = Passes(forwards=MICRO_BATCHES)
    measurements.seconds["forward"] = 2.0 * MICRO_BATCHES
    left = measurements.seconds_left(wanted)
    # At least the steps and the same once more, two seconds for each forward pass.
    assert left >= 2.0 * 3 * (STEPS + 1) * MICRO_BATCHES
    assert about(left).endswith("more, an estimate")
    measurements._values |= {"recording": None, "replay": None}
    assert measurements.seconds_left(wanted) == 0.0
    assert about(0.0) == ""
    assert about(44.0) == "; about 40 s more, an estimate"
    assert about(150.0) == "; about 2 min more, an estimate"
