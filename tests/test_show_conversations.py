"""Rows as conversations: text with and without colour, and the page."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from fixtures.templates import TEMPLATES, trainer
from trainsanity.cli.main import program
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.conversations import (
    Conversation,
    Conversations,
    Part,
    Run,
    Sequence_,
)
from trainsanity.pipeline import Pipeline
from trainsanity.report.conversation import render_conversations
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Status

QUESTION = Part("user", [Run("<u>", 1, counted=False, special=True),
                         Run("why?\n", 3, counted=False, special=False)])  # fmt: skip
ANSWER = Part("assistant", [Run("<a>", 1, counted=False, special=True),
                            Run("[bold]\x1b so", 2, counted=True, special=False),
                            Run("<e>", 1, counted=True, special=True)])  # fmt: skip
ONE = Conversations([Conversation(4, [Sequence_("", [QUESTION, ANSWER])])])


def sides():
    return Conversation(0, [Sequence_(t, [QUESTION, ANSWER]) for t in ("chosen", "rejected")])


def test_targets_stand_between_marks_and_control_characters_are_written_out():
    lines = render_conversations("p", ONE, rows=[0]).splitlines()
    assert lines[:2] == ["p", "⟦targets of the loss⟧; everything else is read and not learnt"]
    assert lines[3] == "row 4: 3 of 8 tokens in the loss (38%)"
    assert lines[4] == "  user       <u>why?⏎"
    assert lines[5] == r"  assistant  <a>⟦[bold]\x1b so<e>⟧"


def test_colour_repeats_the_marks():
    plain = render_conversations("p", ONE, rows=[0])
    coloured = render_conversations("p", ONE, rows=[0], color=True)
    assert "\x1b[" not in plain
    assert "\x1b[32m" in coloured
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured).replace(", special tokens;", ";")
    assert bare.split() == plain.split()


def test_chosen_stands_beside_rejected_and_below_it_where_there_is_no_room():
    pair = Conversations([sides()])
    wide = render_conversations("p", pair, rows=[0], width=120)
    assert any("chosen" in line and "rejected" in line for line in wide.splitlines())
    narrow = render_conversations("p", pair, rows=[0], width=60)
    assert not any("chosen" in line and "rejected" in line for line in narrow.splitlines())
    assert narrow.count("<e>⟧") == 2


def test_documents_of_a_pack_have_borders():
    both = [Sequence_(f"document {k} of 2", [ANSWER]) for k in (1, 2)]
    text = render_conversations(
        "p", Conversations([Conversation(0, both)], "position_ids"), rows=[0]
    )
    assert "2 documents, told apart by position_ids" in text
    assert re.findall("── document . of 2", text) == ["── document 1 of 2", "── document 2 of 2"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_known_models(name):
    spec = PipelineSpec(name, lambda: Pipeline.from_trainer(trainer(name), supervise="assistant"))
    pipeline = spec.make()
    shown = Session.of(pipeline).measurements.get("conversations")
    for row in shown.rows:
        (sequence,) = row.sequences
        for part in sequence.parts:
            targets = "".join(run.text for run in part.runs if run.counted)
            assert bool(targets) == (part.role == "assistant")
            if targets:
                assert targets.endswith(pipeline.tokenizer.eos_token)
        whole = "".join(run.text for part in sequence.parts for run in part.runs)
        assert "�" not in whole
    roles = [part.role for part in shown.rows[0].sequences[0].parts]
    assert roles.count("assistant") == roles.count("user") == 2
    for check in ("collator.supervision_is_declared", "collator.spans_are_alike",
                  "collator.targets_fit_messages", "collator.stop_is_taught",
                  "dataset.conversations_are_usable"):  # fmt: skip
        result = run_one(check, pipeline)
        assert result.status is Status.PASS, (check, result.reason, result.findings)


def test_the_command_writes_text_json_and_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["fixtures.templates:chatml", "--row", "3", "--html", "s.html", "--json", "s.json"]
    result = CliRunner().invoke(program, ["show", *words])
    assert result.exit_code == 0, result.output
    assert "row 3: " in result.stdout
    drawn = CliRunner().invoke(program, ["show", words[0]])
    assert "row 0 in training order: " in drawn.stdout
    (row,) = json.loads((tmp_path / "s.json").read_text())["conversations"]
    assert row["number"] == 3
    page = (tmp_path / "s.html").read_text()
    assert "<mark>" in page
    assert not re.search(r"(src|href)=|<script", page)


def test_a_row_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, ["show", "fixtures.templates:chatml", "--row", "999"])
    assert result.exit_code == 2
    assert "--row 999: train_dataset has 48 rows, from 0 on" in result.stderr
