"""How sure a diagnosis is of its cause, in words."""

from __future__ import annotations

import pytest

from trainsanity.diagnosis import diagnose
from trainsanity.registry import registry
from trainsanity.types import Finding, Result, Status

RUN = {"gradient_accumulation_steps": 12, "world_size": 1, "num_labels": 280}


def results(factor, *, cause="why", explained=None):
    found = [
        Result(registry().get("TS502"), "p", Status.FAIL,
               (Finding("wrong", factor=factor, cause=cause),))
    ]  # fmt: skip
    if explained is not None:
        found.append(
            Result(registry().get("TS601"), "p", Status.BLOCKED,
                   (Finding("slope", factor=explained),))
        )  # fmt: skip
    return found


ONLY = "only gradient_accumulation_steps x world_size = 12 x 1 fits"


@pytest.mark.parametrize(
    ("said", "facts", "confidence"),
    [
        (results(12.0), RUN, f"good: {ONLY}"),
        (results(12.03, explained=12.0), RUN, f"high: {ONLY}, and TS601 shows the same factor"),
        (results(12.0, explained=3.0), RUN, f"good: {ONLY}"),
        (results(7.0), RUN, "open: the factor 7.00 is no known quantity of the run"),
        (results(None), RUN, "likely: what is wrong was measured, why is concluded"),
        (
            results(None, cause=None),
            RUN,
            "open: what is wrong was measured, the cause is not known",
        ),
        ([], RUN, ""),
    ],
)
def test_confidence(said, facts, confidence):
    assert diagnose(said, (), facts).confidence == confidence


def test_two_that_fit_equally_are_open():
    confidence = diagnose(results(12.0), (), {**RUN, "num_labels": 12}).confidence
    assert confidence.startswith("open between 2: gradient_accumulation_steps x world_size and num")
