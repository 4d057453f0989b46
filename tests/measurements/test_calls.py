"""Calls of tools, found by how chat templates write them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainsanity.checks.dataset.rows_are_single_examples import lists_in
from trainsanity.measurements.batches.chat_template import tools_of
from trainsanity.measurements.data.calls import _split, _written
from trainsanity.measurements.data.written_calls import patterns
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


def seen_by(by):
    return patterns(SimpleNamespace(apply_chat_template=lambda talk, **how: by(talk)))


def test_arguments_that_were_encoded_twice_are_told_from_those_that_hold_json():
    objects, strings, _ = seen_by(as_json)
    once = '<tool_call>\n{"name": "post", "arguments": {"body": "{\\"a\\": 1}"}}\n</tool_call>'
    twice = '<tool_call>\n{"name": "post", "arguments": "{\\"body\\": 1}"}\n</tool_call>'
    assert [bool(one.search(once)) for one in (objects, strings)] == [True, False]
    assert [bool(one.search(twice)) for one in (objects, strings)] == [False, True]


def test_a_template_that_takes_text_as_it_is_encodes_nothing_twice():
    def as_it_is(talk):
        import json

        known = talk[1]["tool_calls"][0]["function"]["arguments"]
        text = known if isinstance(known, str) else json.dumps(known)
        return f"{talk[0]['content']}<call>qztool {text}</call>"

    assert seen_by(as_it_is)[1] is None


def test_the_word_none_is_found_in_front_of_a_call_alone():
    def said_first(talk):
        call = as_json(talk).partition("assistant\n")[2]
        return f"user\n{talk[0]['content']}\nassistant\n{talk[1]['content']}{call}"

    nothing = seen_by(said_first)[2]
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}'
    assert nothing.search(f"user\nhi\nassistant\nNone{call}")
    assert not nothing.search(f"user\nhi\nassistant\n{call}")
    assert not nothing.search(f"user\nhi\nassistant\nNone of them.{call}")


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
