"""A check's `Measured` is one sentence for all outcomes: it never claims what a finding denies."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

import pytest

from trainsanity.engine.registry import registry

CHECKS = registry().all()

CLAIMS = re.compile(
    r"\b(none|nothing|no one|nowhere|equal to|the same as|matches|agrees?|as it should|is right|"
    r"are right|correct|sane|healthy|all of|every|only|never|without)\b",
    re.IGNORECASE,
)
"""Words that say that something holds: a sentence with one of them is false beside a finding."""


def measured_of(check):
    """Return the expressions that a check's function wraps into `Measured`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(check.fn)))
    return [
        node.args[0] if node.args else node.keywords[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Measured"
    ]


def words(expression):
    """Return the literal text of a message, with its values left out."""
    return " ".join(
        node.value
        for node in ast.walk(expression)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("check", CHECKS, ids=[check.code for check in CHECKS])
def test_one_template_for_both_outcomes(check):
    assert len(measured_of(check)) == 1, "yield Measured in one place, after the findings or before"


@pytest.mark.parametrize("check", CHECKS, ids=[check.code for check in CHECKS])
def test_the_template_claims_nothing(check):
    (expression,) = measured_of(check)
    assert not CLAIMS.findall(words(expression))
