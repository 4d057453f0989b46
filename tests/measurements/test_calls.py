"""Calls of tools, found by how chat templates write them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainsanity.checks.dataset.rows_are_single_examples import lists_in
from trainsanity.measurements.batches.chat_template import tools_of
from trainsanity.measurements.data.calls import _split, _written
from trainsanity.types import Skip


def written(by):
    return _written(SimpleNamespace(apply_chat_template=lambda talk, **how: by(talk)))


def as_json(talk):
    import json

    call = talk[1]["tool_calls"][0]["function"]
    return (
        f"<|im_start|>user\n{talk[0]['content']}<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        f"{json.dumps(call)}\n</tool_call><|im_end|>\n"
    )


def test_calls_are_found_as_the_template_writes_them():
    before, missing, literal = written(as_json)
    row = (
        '<|im_start|>assistant <tool_call> {"name": "get_time", "arguments": {"zone": "UTC", '
        '"city": null}} </tool_call> <tool_call> {"name": "search", "arguments": {"zone": null, '
        '"query": "none"}} </tool_call>'
    )
    calls = _split(before, row)
    assert literal == "null"
    assert [tool for tool, _ in calls] == ["get_time", "search"]
    assert [missing.findall(part) for _, part in calls] == [["city"], ["zone"]]


def test_a_template_that_leaves_out_what_is_missing_says_nothing():
    def without(talk):
        call = talk[1]["tool_calls"][0]["function"]
        kept = {name: value for name, value in call["arguments"].items() if value is not None}
        return f"{talk[0]['content']} {call['name']} {kept}"

    with pytest.raises(Skip, match="lacks"):
        written(without)


def test_a_template_without_calls_says_nothing():
    with pytest.raises(Skip, match="no calls"):
        written(lambda talk: talk[0]["content"])


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("['a b', 'c'] and ['d', \"it's\"]", [2, 2]),
        ("x = ['a', 'b', 'c']", [3]),
        ("[1, 2] ['one']", []),
        ("no list, 'a', 'b'", []),
    ],
)
def test_lists_of_strings_are_counted(text, sizes):
    assert lists_in(text) == sizes


def test_tools_are_read_from_json_too():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert tools_of({"tools": tools}) == tools
    assert tools_of({"tools": '[{"type": "function", "function": {"name": "f"}}]'}) == tools
    assert tools_of({"tools": "no JSON"}) is None
    assert tools_of({"tools": []}) is None
    assert tools_of({}) is None
