"""What the checks of a step say of numbers that no fault happens to show.

One pipeline is measured once, and its numbers are moved.

What is red is asserted; what is said of it is compared with what it was.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fixtures.faults import healthy
from tests.check_snapshots import assert_yielded
from tests.checks.bounds_step import of_first
from trainsanity.checks.schedule.peak_is_reached import peak_is_reached
from trainsanity.engine.registry import registry
from trainsanity.engine.session import Session
from trainsanity.measurements.step.closed_form import parts_of_closed_form
from trainsanity.measurements.step.directions import Trial
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.pipeline import Pipeline
from trainsanity.types import Finding, Measured, Severity


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy(gradient_accumulation_steps=2, rows=40))


def said(name, pipeline, **changed):
    """All that a check yields of the pipeline's measurements with some of them changed."""
    check = registry().get(name)
    get = Session.of(pipeline).measurements.get
    found = list(
        check.fn(**{look: changed[look] if look in changed else get(look) for look in check.inputs})
    )
    assert isinstance(found[-1], Measured)
    return found


def findings(found):
    return [one for one in found if isinstance(one, Finding)]


FACTORS = (0.003, 0.01, 0.25, 0.5, 0.94, 0.96, 1.04, 1.06, 2.0, 3.0, 4.0, 280.0)


def test_a_logged_loss_that_is_a_factor_off(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    right = reference(pipeline, recording.first).mean
    told = []
    for factor in FACTORS:
        logged = {**recording.first.logged, "loss": factor * right}
        found = said(
            "loss.matches_reference", pipeline, recording=of_first(recording, logged=logged)
        )
        (finding,) = findings(found)
        assert finding.factor == pytest.approx(factor)
        assert finding.where == "step 1"
        told += found
    assert_yielded("loss.matches_reference", "step-loss_by_factor", told)


def test_a_logged_loss_that_is_off_in_the_second_step_alone(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    first, second = recording.steps
    right = reference(pipeline, second).mean
    changed = replace(recording, steps=[first, replace(second, logged={"loss": 2 * right})])
    found = said("loss.matches_reference", pipeline, recording=changed)
    assert [(f.where, f.factor) for f in findings(found)] == [("step 2", pytest.approx(2))]
    # A step that was not logged is not judged, and the first stands alone.
    unlogged = replace(recording, steps=[first, replace(second, logged={})])
    (seen,) = said("loss.matches_reference", pipeline, recording=unlogged)
    assert "in 2 steps" not in seen.message
    (seen,) = said(
        "loss.matches_reference", pipeline, recording=replace(unlogged, out_of_memory=True)
    )
    assert seen.message.endswith("; a second step did not fit in the device's memory")


def test_a_count_that_is_told_by_its_two_numbers(pipeline):
    """Where it is neither the number of items nor unknown, and the factor is its quotient."""
    recording = Session.of(pipeline).measurements.get("recording")
    right = reference(pipeline, recording.first)
    told = []
    for items, factor in itertools.product((None, 4.0, float(right.count), 10.0), (0.8, 2.0)):
        micros = [replace(one, num_items_in_batch=items) for one in recording.first.micro_steps]
        logged = {**recording.first.logged, "loss": factor * right.mean}
        changed = of_first(recording, micro_steps=micros, logged=logged)
        found = said("loss.matches_reference", pipeline, recording=changed)
        (finding,) = findings(found)
        by_count = items not in (None, right.count) and factor == right.count / items
        assert ("num_items_in_batch = " in (finding.cause or "")) == by_count
        told += found
    assert_yielded("loss.matches_reference", "step-loss_by_count", told)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_counted(pipeline, bad):
    recording = Session.of(pipeline).measurements.get("recording")
    one, *others = recording.first.micro_steps
    changed = of_first(recording, micro_steps=[one, *(replace(two, loss=bad) for two in others)])
    found = said("loss.finite", pipeline, recording=changed)
    (finding,) = findings(found)
    assert (found[-1].observed, found[-1].expected) == (3, 4)
    assert_yielded("loss.finite", f"step-loss_is_{bad}", [finding])


CLIPPED = [
    # The norm before, after, max_grad_norm, and whether that is right.
    (2.0, 1.0, 1.0, True),
    (2.0, 2.0, 1.0, False),
    (2.0, 0.5, 1.0, False),
    (0.5, 0.5, 1.0, True),
    (0.5, 1.0, 1.0, False),
    (2.0, 2.0, 0.0, True),
    (2.0, 1.0, 0.0, False),
    (0.0, 0.0, 1.0, True),
    (math.inf, 1.0, 1.0, False),
    (math.nan, math.nan, 1.0, False),
    (2.0, 2.0, math.nan, False),
    (2.0, 1.0, math.nan, False),
]


def test_a_norm_before_and_after_the_clip(pipeline):
    recording, args = Session.of(pipeline).measurements.get("recording"), pipeline.args
    limit, told = args.max_grad_norm, []
    try:
        for before, after, args.max_grad_norm, right in CLIPPED:
            changed = of_first(recording, norm_before_clip=before, norm_after_clip=after)
            found = said("gradient.clipping", pipeline, recording=changed)
            assert (not findings(found)) == right, (before, after, args.max_grad_norm)
            told += found
    finally:
        args.max_grad_norm = limit
    assert_yielded("gradient.clipping", "step-clipping", told)


SLOPES = (-1.0, 0.01, 0.25, 0.5, 0.9, 1.1, 2.0, 4.0, 280.0)


@pytest.mark.parametrize(
    "name", ["gradient.head_closed_form", "gradient.norm_within_bounds", "gradient.clipping"]
)
def test_a_gradient_that_is_a_factor_off(pipeline, name):
    recording = Session.of(pipeline).measurements.get("recording")
    first, told = recording.first, []
    for slope in SLOPES:
        changed = of_first(
            recording,
            head_gradient=slope * first.head_gradient,
            norm_before_clip=abs(slope) * first.norm_before_clip,
            norm_after_clip=min(1.0, abs(slope) * first.norm_before_clip),
            logged={**first.logged, "grad_norm": abs(slope) * first.norm_before_clip},
        )
        found = said(name, pipeline, recording=changed)
        if name == "gradient.head_closed_form":
            (finding,) = findings(found)
            assert finding.factor == (pytest.approx(slope, rel=1e-4) if slope > 0 else None)
        told += found
    assert_yielded(name, "step-by_factor", told)


def test_a_head_without_a_gradient(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    name = f"{recording.head_name}.weight"

    def without(trainable):
        parameters = [
            replace(p, trainable=trainable) if p.name == name else p
            for p in recording.update.parameters
        ]
        changed = of_first(recording, head_gradient=None)
        return replace(changed, update=replace(recording.update, parameters=parameters))

    for trainable, cause in ((False, "it is frozen"), (True, "no backward pass reached it")):
        found = said("gradient.head_closed_form", pipeline, recording=without(trainable))
        (finding,) = findings(found)
        assert finding.headline == "the head received no gradient"
        assert finding.where == name
        assert cause in finding.cause
        assert found[-1].observed == {"slope": 0, "cosine": 0}


def test_the_cause_of_a_wrong_direction_is_what_the_gradient_is_made_of(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    first, second = recording.steps
    parts = parts_of_closed_form(pipeline, recording.head_name, first)

    def cause(gradient):
        changed = of_first(recording, head_gradient=gradient.float())
        (finding,) = findings(said("gradient.head_closed_form", pipeline, recording=changed))
        return finding.cause

    assert cause(parts[0] + 2 * parts[1]).startswith("the 2 micro-batches count 1, 2 times")
    other = torch.randn(parts[0].shape, generator=torch.Generator().manual_seed(0)).double()
    assert "it is no sum of the micro-batches' gradients" in cause(sum(parts) + other)
    logged = {**first.logged, "loss": 2 * first.logged["loss"]}
    changed = of_first(recording, head_gradient=(sum(parts) + other).float(), logged=logged)
    (finding,) = findings(said("gradient.head_closed_form", pipeline, recording=changed))
    assert "another loss than the plain mean is trained" in finding.cause
    left = first.head_gradient * (first.norm_after_clip / first.norm_before_clip)
    kept = replace(second, head_gradient=second.head_gradient + left)
    changed = replace(recording, steps=[first, kept])
    (finding,) = findings(said("gradient.head_closed_form", pipeline, recording=changed))
    assert finding.cause == (
        "the 2 micro-batches count 1, 1 times where each should once; what the step before left is "
        "in it 1 times"
    )


@pytest.mark.parametrize(
    ("limit", "factor", "warns"),
    [(1e-4, 1.0, True), (0.05, 1.0, False), (0.05, 100.0, False), (1e-4, 100.0, True)],
)
def test_a_clip_is_judged_at_the_right_scale(pipeline, limit, factor, warns):
    """A loss that is a hundred times too large is cured by its own check and not by the clip."""
    recording, args = Session.of(pipeline).measurements.get("recording"), pipeline.args
    before = args.max_grad_norm
    steps = [
        replace(
            step,
            head_gradient=factor * step.head_gradient,
            norm_before_clip=factor * step.norm_before_clip,
            norm_after_clip=limit,
        )
        for step in recording.steps
    ]
    args.max_grad_norm = limit
    try:
        found = said("gradient.clipping", pipeline, recording=replace(recording, steps=steps))
        one = replace(recording, steps=[steps[0], replace(steps[1], norm_before_clip=limit)])
        once = said("gradient.clipping", pipeline, recording=one)
    finally:
        args.max_grad_norm = before
    assert [f.severity for f in findings(found)] == [Severity.WARNING] * warns
    assert not findings(once)


def test_a_norm_that_is_not_that_of_the_loss(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    first, told = recording.first, []
    for before, logged in ((0.1, 0.1), (10.0, 10.0), (1.0, 2.0), (1.0, 0.5), (1.0, None)):
        changed = of_first(
            recording,
            norm_before_clip=before * first.norm_before_clip,
            logged={} if logged is None else {"grad_norm": logged * first.norm_before_clip},
        )
        found = said("gradient.norm_within_bounds", pipeline, recording=changed)
        assert len(findings(found)) == (before != 1) + (logged not in (None, before))
        told += found
    assert_yielded("gradient.norm_within_bounds", "step-norm", told)


def test_parameters_without_a_gradient_or_with_one_that_is_no_number(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    names = [p.name for p in recording.update.parameters]

    def marked(**changes):
        update = recording.update
        parameters = [
            replace(p, **changes) if k in (1, 2, 4, 5) else p
            for k, p in enumerate(update.parameters)
        ]
        return replace(recording, update=replace(update, parameters=parameters))

    for name, changes in (
        ("gradient.finite", {"finite": False}),
        ("gradient.reaches_every_parameter", {"has_gradient": False}),
    ):
        (finding,) = findings(said(name, pipeline, recording=marked(**changes)))
        assert finding.where == ", ".join(names[k] for k in (1, 2, 4))
        assert finding.headline.startswith(f"4 of {len(names)} ")


RATES = {
    # What the optimizer used in two steps and has for the third, as shares of what is planned.
    "twice": (2.0, 2.0, 2.0),
    "half": (0.5, 0.5, 0.5),
    "late": (1.0, 1.0, 3.0),
    "nan": (1.0, math.nan, 1.0),
    "nothing": (1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("kind", RATES)
def test_a_learning_rate_that_is_not_planned(pipeline, kind):
    recording, schedule = (
        Session.of(pipeline).measurements.get(n) for n in ("recording", "schedule")
    )
    base = {0: 1e-6, 1: 2e-6, 2: 3e-6}
    planned = replace(schedule, curve={**schedule.curve, **base})
    rates = [share * rate for share, rate in zip(RATES[kind], base.values(), strict=True)]
    told = []
    for curve in (None, base, {k: 2 * rate for k, rate in base.items()}):
        steps = [
            replace(step, learning_rate=rate)
            for step, rate in zip(recording.steps, rates, strict=False)
        ]
        changed = replace(recording, steps=steps, next_learning_rate=rates[-1], curve=curve)
        found = said(
            "schedule.learning_rate_follows", pipeline, recording=changed, schedule=planned
        )
        (finding,) = findings(found)
        first = next(k for k, share in enumerate(RATES[kind]) if share != 1)
        assert finding.where == f"step {first + 1}"
        told += found
    assert_yielded("schedule.learning_rate_follows", f"step-rate_{kind}", told)


@pytest.mark.parametrize(
    ("elements", "right"),
    [((1000, 495, 990), True), ((1000, 494, 990), False), ((20, 0, 0), False)],
)
def test_elements_that_move(pipeline, elements, right):
    recording = Session.of(pipeline).measurements.get("recording")
    update = recording.update
    earlier = Trial(10, 1e-7, {"float32": (1000, 250, 1000)})
    peak = Trial(
        None, update.rate, {"bfloat16": elements, "float32": (10, 10, 10), "float16": (0, 0, 0)}
    )
    trials = [earlier, peak]
    changed = replace(recording, update=replace(update, trials=trials))
    found = said("update.survives_rounding", pipeline, recording=changed)
    # With ten of ten in float32: exactly a half, one less, and a third.
    assert (not findings(found)) == right
    assert_yielded("update.survives_rounding", f"step-moved_{elements[1]}", found)


def test_the_dtype_of_the_loss_is_told(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    told = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        micros = [replace(one, loss_dtype=dtype) for one in recording.first.micro_steps]
        told += said("loss.dtype", pipeline, recording=of_first(recording, micro_steps=micros))
    assert_yielded("loss.dtype", "step-loss_dtype", told)


def test_a_rate_that_is_none_is_told_with_its_step(pipeline):
    rates = {0: 0.0, 1: 5e-6, 2: math.nan, 3: math.inf}
    (finding,) = findings(peak_is_reached(pipeline, Schedule(4, 2, rates)))
    assert finding.headline == (
        "learning_rate is 1e-05, and the schedule gives nan for step 3: that is no rate"
    )
    endless = SimpleNamespace(args=SimpleNamespace(learning_rate=math.inf))
    (finding,) = findings(peak_is_reached(endless, Schedule(2, 0, {0: 0.5, 1: 0.25})))
    assert finding.headline == (
        "learning_rate is inf, and the schedule gives 0.5 for step 1: that is no rate"
    )


def test_four_decimals_of_a_small_loss_are_allowed_for_in_its_factor(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    micros = [
        replace(one, items=replace(one.items, losses=one.items.losses * 0.002))
        for one in recording.first.micro_steps
    ]
    small = of_first(recording, micro_steps=micros)
    right = reference(pipeline, small.first).mean
    # Of a loss of 0.02 half a unit of the fourth decimal is one in 400.
    assert 0.01 < right < 0.02
    logged = {**recording.first.logged, "loss": 2 * right + 4e-5}
    (finding,) = findings(
        said("loss.matches_reference", pipeline, recording=of_first(small, logged=logged))
    )
    assert abs(finding.factor / 2 - 1) > 1e-3
    assert "gradient_accumulation_steps" in finding.cause


def test_what_a_clipped_gradient_would_have_been_is_told(pipeline):
    recording = Session.of(pipeline).measurements.get("recording")
    step = recording.first
    short = of_first(
        recording,
        head_gradient=step.head_gradient * 0.3,
        norm_before_clip=1.0,
        norm_after_clip=1.0,
    )
    (finding,) = findings(said("gradient.clipping", pipeline, recording=short))
    assert finding.observed == 1.0
    assert finding.factor == pytest.approx(0.3, rel=1e-3)
    assert finding.expected == pytest.approx(1 / 0.3, rel=1e-3)
