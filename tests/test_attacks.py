"""The attacks on the promises are all there, and a few of them are tried.

``python -m tests.attacks`` tries all 150, in some twenty minutes.
"""

from __future__ import annotations

import re

import pytest

from tests.attacks import run
from tests.attacks.oracle import ATTACKS, Ended, refused
from tests.attacks.written import LIST, cells


def listed():
    rows = map(cells, LIST.read_text(encoding="utf-8").splitlines())
    return {int(row[0]): row for row in rows if row[0].isdigit()}


def test_every_attack_of_the_list_is_a_function():
    run.numbers([])
    assert [*listed()] == [*range(1, 151)] == sorted(ATTACKS)


def test_every_first_result_is_on_file():
    for number, row in listed().items():
        assert re.match("held|broken: ", row[3]), number


@pytest.mark.parametrize("number", [1, 47, 92, 129])
def test_some_are_held(number):
    run.numbers([])
    assert run.one(number) == ""


def test_an_attack_can_fail():
    ended = Ended(3, "", "Traceback\nValueError", {"final.pt": b"x"})
    assert refused(ended) == (
        "exit code 3: ValueError; traceback: ValueError; written: ['final.pt']"
    )
