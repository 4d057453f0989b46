"""Conversations of the dataset: odd ones end in one sentence of the check that owns them."""

from __future__ import annotations

import pytest

from trainsanity.checks.dataset.conversations_are_usable import conversations_are_usable
from trainsanity.measurements.data.talks import Talks, _look, _render
from trainsanity.types import Finding, Measured, Severity

TEMPLATE = "{% if m['role'] == 'assistant' %}"
GOOD = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def talks(*rows, template=TEMPLATE):
    found = Talks()
    for number, row in enumerate(rows):
        found.rows += 1
        _look(found, number, row, list(row), template)
    return found


def yielded(found):
    items = list(conversations_are_usable(found))
    assert sum(isinstance(one, Measured) for one in items) == 1
    return [one for one in items if isinstance(one, Finding)]


def test_good_rows_have_no_finding():
    assert yielded(talks({"messages": GOOD}, {"prompt": "a", "completion": "b"})) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "have no messages"),
        ({"messages": None}, "have no messages"),
        ({"prompt": "a", "completion": "  "}, "an answer that says nothing"),
        ({"prompt": GOOD[:1], "completion": []}, "an answer that says nothing"),
        ({"messages": [GOOD[0], {"role": "assistant", "content": ""}]}, "says nothing"),
        ({"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]},
         "the roles gpt, human"),
    ],
)  # fmt: skip
def test_odd_rows_are_a_failure_where_they_are_many(row, words):
    (few,) = yielded(talks(row, {"messages": GOOD}, {"messages": GOOD}))
    (many,) = yielded(talks(row))
    assert words in few.headline
    assert (few.severity, many.severity) == (Severity.WARNING, Severity.FAILURE)


def test_calls_and_thoughts_say_something():
    for beside in ({"tool_calls": [{"name": "f"}]}, {"reasoning_content": "hm"}):
        answer = {"role": "assistant", "content": None, **beside}
        assert yielded(talks({"messages": [GOOD[0], answer]})) == []


def test_an_unknown_role_beside_an_assistant_is_a_warning_unless_the_template_names_it():
    row = {"messages": [{"role": "critic", "content": "x"}, *GOOD]}
    (found,) = yielded(talks(row))
    assert found.severity is Severity.WARNING
    assert "critic" in found.headline
    assert yielded(talks(row, template=TEMPLATE + "{% if m['role'] == 'critic' %}")) == []


def test_a_template_that_raises_is_told_with_its_words():
    class Raises:
        def apply_chat_template(self, talk, **how):
            raise ValueError("roles must alternate\nand more")

    found = talks({"messages": GOOD})
    _render(found, 0, {"messages": GOOD}, ["messages"], Raises())
    (told,) = yielded(found)
    assert told.headline.endswith("ValueError: roles must alternate")
    assert told.severity is Severity.WARNING


def test_an_answer_that_is_the_eos_alone_says_nothing():
    found = Talks(rows=1)
    _look(found, 0, {"prompt": "a", "completion": "<e>"}, ["completion"], "", "<e>")
    _look(found, 1, {"prompt": "a", "completion": "b<e>"}, ["completion"], "", "<e>")
    assert found.empty == [0]
