"""Completions that no reward function answers with a number are a warning."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from trainsanity.checks.loss.advantages_differ import advantages_differ
from trainsanity.measurements.step.rollouts import Rollouts
from trainsanity.types import Finding, Severity

NONE = math.nan


@pytest.mark.parametrize(
    ("rewards", "unrewarded"),
    [
        ({"one": [NONE, 1.0, 0.0, NONE]}, 2),
        ({"one": [NONE, 1.0, 0.0, NONE], "two": [1.0, NONE, NONE, 0.0]}, 0),
        ({"one": [1.0, 0.0, 0.0, 1.0]}, 0),
        ({}, 0),
    ],
)
def test_what_no_function_rewards_is_told(rewards, unrewarded):
    rollouts = Rollouts(4, [(1,)] * 4, [-1.0, 1.0, 0.5, -0.5], [[3]] * 4, [[1]] * 4, rewards)
    found = [one for one in advantages_differ(SimpleNamespace(args=None), rollouts)
             if isinstance(one, Finding)]  # fmt: skip
    assert [one.severity for one in found] == [Severity.WARNING] * bool(unrewarded)
    if unrewarded:
        assert f"{unrewarded} of 4 completions have no reward" in found[0].headline
