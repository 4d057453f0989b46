"""Each numeric check, just inside its bound and just outside.

One healthy pipeline is measured once.  In each case the quantity that a check holds against its
bound is moved to a share of that bound: 0.99 of it has to pass, 1.01 of it has to fail.  Where the
bound lies is computed from the formula in the check's docstring and from
``trainsanity.maths.tolerances``.
"""

from __future__ import annotations

import inspect

import pytest

from fixtures.faults import healthy
from tests.check_snapshots import assert_yielded
from tests.checks import bounds_data, bounds_model, bounds_step  # noqa: F401
from tests.checks.bounds import CASES
from trainsanity.engine.registry import registry
from trainsanity.engine.session import Session
from trainsanity.pipeline import Pipeline
from trainsanity.types import Finding, Measured

NEAR = 0.01
"""How near to the bound, relative: far above what float32 rounds, far below any effect."""
FAR, LITTLE = 30.0, 0.03
"""So far from the bound that no wording takes the one for arithmetic, nor the other for worse."""

COUNTED = {
    "dataset.kl_rows_differ": "rows of the pipeline's own batches are counted: nothing is measured "
    "that could be moved",
    "model.targets_unseen": "visible targets of its own batches are counted, against half of them",
    "model.reward_is_one_number": "asked of pairs alone, whose loss changes or not",
    "model.padding_is_hidden": "asked of models whose arguments have names of their own",
    "loss.predicts_the_next_token": "outputs of the pipeline's own step are counted",
    "loss.starts_undecided": "the losses of a first step; twice the logarithm of the vocabulary is "
    "no rounding",
    "speed.steps_take_alike": "a time that was measured, beside its own noise",
}
"""Checks with a bound and without a pair, and why."""


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy(gradient_accumulation_steps=2))


def said(check, pipeline, changed):
    get = Session.of(pipeline).measurements.get
    inputs = {name: changed[name] if name in changed else get(name) for name in check.inputs}
    return list(check.fn(**inputs))


@pytest.mark.parametrize("name", CASES)
def test_bound(pipeline, name):
    check, move = CASES[name]
    get = Session.of(pipeline).measurements.get
    inside = said(check, pipeline, move(get, 1 - NEAR))
    assert [type(one) for one in inside] == [Measured], inside
    outside = said(check, pipeline, move(get, 1 + NEAR))
    assert any(isinstance(one, Finding) for one in outside), outside
    # What is said of it far beyond and far inside is compared with what it was.
    far = said(check, pipeline, move(get, FAR))
    little = said(check, pipeline, move(get, LITTLE))
    assert_yielded(check.name, f"bound-{name}", [*inside, *outside, *far, *little])


def test_length_limit_is_exact(pipeline):
    check, config = registry().get("dataset.lengths_within_limit"), pipeline.config
    longest, before = (
        Session.of(pipeline).measurements.get("scan").train.longest,
        config.max_position_embeddings,
    )
    try:
        config.max_position_embeddings = longest
        assert [type(one) for one in said(check, pipeline, {})] == [Measured]
        config.max_position_embeddings = longest - 1
        assert isinstance(said(check, pipeline, {})[0], Finding)
    finally:
        config.max_position_embeddings = before


def test_no_numeric_check_is_forgotten():
    """Each check that uses a bound of trainsanity.maths.tolerances, or its own, has its pair."""
    words = ("tolerances", "allowed", "Difference", "STANDARD_ERRORS", "MARGIN", "RELATIVE")
    words += ("HALF", "KEPT", "_GAIN")
    numeric = set()
    for check in registry().all():
        body = inspect.getsource(check.fn).rpartition('"""')[2]
        if any(word in body for word in words):
            numeric.add(check.name)
    paired = {name.partition("-")[0] for name in CASES}
    assert numeric - paired == set(COUNTED)
