"""What --no-rows keeps out of a report, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.reports import HEALTHY, INCIDENT, LOSS, PAD, ROWS, TARGET, ended, failed, passed, report
from tests.stored import stored
from trainsanity import Finding, Status
from trainsanity.report.github import summary
from trainsanity.report.json import dumps
from trainsanity.report.privacy import holds_rows, without_rows
from trainsanity.report.screen import render
from trainsanity.report.text import render as in_full

SECRET = "Ms Müller's invoice"
QUOTING = Finding(
    f"row 3 of train_dataset says {SECRET!r}, and its ids are [11, 12, 13]",
    observed={"text": SECRET, "ids": [11, 12, 13], "rows": 3},
    expected=[11, 12],
    where=f"row 3: {SECRET!r}",
    cause=f"the column holds {SECRET!r}",
    fix=f"take {SECRET!r} out; it's the 3rd row's",
    factor=2.0,
)
TOLD = report(
    failed(LOSS, QUOTING),
    ended(ROWS, Status.ERROR, f"the check raised KeyError: {SECRET!r}", debug=f"... {SECRET}"),
    passed(PAD, f"3 rows, one is {SECRET!r}"),
    environment={"python": "3.11", "notes": [f"row 3 is cut: {SECRET!r}"]},
)


@pytest.mark.parametrize(
    "write", [render, in_full, lambda told, **_: dumps([told]), lambda told, **_: summary([told])]
)
def test_no_reporter_has_a_row(write) -> None:
    assert "invoice" in write(TOLD, debug=True)
    bare = write(without_rows(TOLD), debug=True)
    for words in ("invoice", "Müller", "11, 12"):
        assert words not in bare
    # What was measured and what to do is told all the same.
    assert "row 3 of train" in bare
    assert TARGET in bare


def test_verdict_codes_and_numbers_stay() -> None:
    bare = without_rows(TOLD)
    assert bare.exit_code() == TOLD.exit_code()
    first = bare.results[0].findings[0]
    assert (first.factor, first.observed["rows"]) == (2.0, 3)
    assert without_rows(bare) == bare
    assert render(HEALTHY) == render(without_rows(HEALTHY))


def test_json_says_whether_it_may_hold_rows() -> None:
    told = [json.loads(dumps([one]))["holds_rows"] for one in (TOLD, without_rows(TOLD), HEALTHY)]
    assert told == [True, False, False]
    assert holds_rows(replace(INCIDENT, results=INCIDENT.results[:3]))  # a traceback may


@pytest.mark.parametrize("name", ["one_failure", "string_labels"])
def test_what_pipelines_say_is_still_an_answer(name: str) -> None:
    told = stored(name)
    text = render(without_rows(told))
    assert text.splitlines()[0] == render(told).splitlines()[0]
    assert "fix       " in text
