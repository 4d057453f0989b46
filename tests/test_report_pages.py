"""The pages of checks: complete, with the words of a real failure, and Markdown that holds."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from fixtures.faults import all_faults
from tests.reports import assert_examples_are_current, failed, report
from trainsanity import Finding
from trainsanity.cli.main import program
from trainsanity.engine.registry import registry
from trainsanity.report.pages import examples, page, reference
from trainsanity.types import STAGES, Check

CHECKS = registry().all()
FAULTS = {fault.id: fault for fault in all_faults()}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.code)
def test_every_page_shows_a_real_failure(check: Check) -> None:
    example = examples().get(check.code)
    assert example, f"run .ci/examples.py {check.code}"
    fault = FAULTS[example["fault"]]
    assert check.name in fault.caught_by | fault.warned_by
    assert (example["title"], example["upstream"]) == (fault.title, fault.upstream)
    ends = "fails" if check.name in fault.caught_by else "warns"
    assert example["text"].startswith(f"{check.code} {check.name} {ends} on {fault.id}\n")
    shown = page(check)
    assert check.page in shown
    for line in example["text"].splitlines():
        assert f"  {line}" in shown


def test_no_example_of_a_check_that_is_gone() -> None:
    assert set(examples()) == {check.code for check in CHECKS}


def explain(*arguments: str) -> str:
    result = CliRunner().invoke(program, ["explain", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_reference_is_markdown_with_every_check_in_its_stage() -> None:
    text = explain("--all")
    assert text.rstrip() == reference(CHECKS).rstrip()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [
        (token.tag, tokens[place + 1].content)
        for place, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    expected = [("h1", "The checks of trainsanity")]
    for stage in STAGES:
        mine = [check for check in CHECKS if check.stage == stage]
        expected += [("h2", stage.capitalize())] if mine else []
        expected += [("h3", f"{check.code} `{check.name}`") for check in mine]
    assert headings == expected
    assert sum(token.type == "fence" and token.info == "text" for token in tokens) == len(
        examples()
    )


def test_links_of_the_contents_lead_to_a_heading() -> None:
    text = reference(CHECKS)
    anchors = re.findall(r"^- \[.*?\]\(#(.*?)\)", text, re.MULTILINE)
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    # As GitHub does it: lower case, signs away, blanks to hyphens.
    made = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
    assert anchors == made
    assert len(set(anchors)) == len(CHECKS)


def test_issues_are_links_and_code_is_code() -> None:
    text = reference([registry().get("TS502")])
    assert "[huggingface/transformers#47688]" in text
    assert "(https://github.com/huggingface/transformers/issues/47688)" in text
    assert "`num_items_in_batch`" in text
    assert "``" not in text.replace("```", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain"], "name a check, like TS502, or give --all"),
        (["explain", "TS502", "--all"], "--all means every check: leave TS502 out"),
    ],
)
def test_which_pages_has_to_be_said(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_other_words_than_those_shown_are_noticed() -> None:
    check = registry().get("TS502")
    told = report(failed(check, Finding("something else")))
    with pytest.raises(AssertionError, match=r"run \.ci/examples\.py TS502"):
        assert_examples_are_current(examples()["TS502"]["fault"], told.results)
    assert_examples_are_current("some other fault", told.results)
