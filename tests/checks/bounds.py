"""Where the cases of test_bounds.py are collected."""

from __future__ import annotations

from trainsanity.engine.registry import registry

CASES = {}


def case(name):
    """Register how the measurements of a check are moved to a share of its bound."""

    def register(move):
        CASES[f"{name}-{move.__name__}"] = (registry().get(name), move)
        return move

    return register


def expected(get, name):
    """Return the bound that the check reports on the healthy pipeline."""
    check = registry().get(name)
    (seen,) = check.fn(**{name: get(name) for name in check.inputs})
    return seen.expected
