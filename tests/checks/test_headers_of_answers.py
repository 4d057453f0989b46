"""What a row that truncation has cut off says of the header of its answer: nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.controls import all_controls
from trainsanity.engine.registry import registry
from trainsanity.engine.session import Session
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Finding, Skip

CONTROL = next(one for one in all_controls() if one.id == "answers_of_two_turns")
HEADER = registry().get("TS117")


def test_rows_that_are_cut_before_their_answer_are_no_evidence() -> None:
    pipeline = PipelineSpec(CONTROL.id, CONTROL.build).make()
    get = Session.of(pipeline).measurements.get
    documents, template = get("documents"), get("chat_template")
    # The answer's header is two tokens and a line break.
    short = min(one.counted[0] for one in documents.found) - 3
    found = [
        replace(one, ids=one.ids[:short], labels=one.labels[:short]) for one in documents.found
    ]
    assert all(one.raw for one in found)
    cut = replace(documents, found=found, limit=short)
    with pytest.raises(Skip, match=f"cut at max_length {short}"):
        list(HEADER.fn(pipeline, cut, template))
    # Without a limit they are rows as they were meant, and none of them asks for an answer.
    (finding, _) = HEADER.fn(pipeline, replace(cut, limit=None), template)
    assert isinstance(finding, Finding)
