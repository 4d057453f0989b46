"""How answers become a score; that the tools themselves are asked is what `tox -e score` does."""

from __future__ import annotations

import json

import pytest

from tests.score import table
from tests.score.looks import Look
from tests.score.subjects import subjects

FAULT, BASE = "fault:count_dropped", "control:plain"


def answer(tool, subject, red=(), warned=(), unable=(), **more):
    return {
        "tool": tool,
        "version": "1",
        "transformers": "5.0.0",
        "subject": subject,
        "red": dict.fromkeys(red, "said"),
        "warned": dict.fromkeys(warned, "said"),
        "unable": dict.fromkeys(unable, "why"),
        "more": more,
        "seconds": 1.0,
        "looks_at": ["loss", "gradient", "collator"],
        "speaks_of": {"sum": ["loss"], "grad": ["gradient"], "pad": ["collator"]},
    }


@pytest.fixture
def published(tmp_path, monkeypatch):
    def publish(*answers):
        monkeypatch.setattr(table, "DOCUMENT", tmp_path / "score.json")
        table.publish(list(answers))
        return json.loads(table.DOCUMENT.read_text())

    return publish


def row(document, tool):
    line = next(t for t in table.markdown(document).splitlines() if t.startswith(f"| {tool} 1 "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_is_red_on_the_base_finds_nothing(published):
    document = published(
        answer("peer", BASE, red=["pad"]), answer("peer", FAULT, red=["pad"], warned=["sum"])
    )
    # asked, found, named; a control that is red is a false alarm
    assert row(document, "peer")[2:5] == ["1", "0 (0%)", "0"]
    assert row(document, "peer")[6] == "1 of 1"
    assert row(document, "torchtest2, strict")[2:5] == ["1", "1 (100%)", "1"]


def test_found_in_another_stage_is_not_named(published):
    document = published(answer("peer", BASE), answer("peer", FAULT, red=["pad"]))
    assert row(document, "peer")[2:5] == ["1", "1 (100%)", "0"]


def test_a_fault_without_its_base_is_not_judged(published):
    assert row(published(answer("peer", FAULT, red=["sum"])), "peer")[2] == "0"


def test_a_crash_is_no_detection():
    def crash():
        raise IndexError("index out of range")

    def objection():
        raise AssertionError("no")

    said = Look()
    said.ask("crash", "tests", crash)
    said.ask("own", "tests", objection)
    said.ask("of another", "site-packages", objection)
    assert said.unable == {
        "crash": "IndexError: index out of range",
        "of another": "AssertionError: no",
    }
    assert said.red == {"own": "no"}


def test_a_fault_that_only_a_peer_finds_is_told(published):
    document = published(
        answer("trainsanity", BASE, exact=True),
        answer("trainsanity", FAULT, exact=False),
        answer("peer", BASE),
        answer("peer", FAULT, red=["sum"]),
    )
    assert "Found by peer and not by trainsanity: `count_dropped`." in table.markdown(document)
    assert row(document, "trainsanity")[5] == "0"


def test_a_line_that_was_cut_off_is_asked_again(tmp_path):
    file = tmp_path / "answers.jsonl"
    table.append(file, answer("peer", BASE))
    with file.open("a") as end:
        end.write('{"tool": "pe')
    assert [one["subject"] for one in table.read(file)] == [BASE]


def test_every_fault_has_a_base_that_is_asked():
    known = subjects()
    assert {one.base for one in known.values() if one.is_fault} <= known.keys()
