"""The report inside GitHub Actions: data stays text, GitHub's limits are kept."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.reports import (
    CLIP,
    FAIL,
    HEALTHY,
    INCIDENT,
    LOSS,
    NASTY,
    PAD,
    REPORTS,
    ROWS,
    SAME_TOKEN,
    TARGET,
    WARNED,
    assert_snapshot,
    ended,
    failed,
    passed,
    report,
    under,
    warned,
)
from trainsanity import Finding, Status
from trainsanity.report.github import ANNOTATIONS, md, summary, workflow_commands
from trainsanity.report.words import clean

GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])


@pytest.mark.parametrize("name", REPORTS)
def test_snapshot(name: str) -> None:
    told = REPORTS[name]
    assert_snapshot(f"{name}.md", summary([told]))
    assert_snapshot(f"{name}.commands", "".join(f"{c}\n" for c in workflow_commands([told])))


@given(st.text())
@example(NASTY)
@example("1. no list\n- none here")
@example("# no heading")
@example("=== no underline\n---")
@example("[no](link) ![no image] <b>no tag</b> &amp; `no code` ~~no~~ a_b_c *d* | cell \\|")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    wanted = " ".join(clean(text).split())
    for source, tag in ((md(text), "p"), (f"| x |\n|---|\n| {md(text)} |", "td")):
        page = GITHUB.render(source)
        (shown,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) or [""]
        assert html.unescape(shown) == wanted


def test_several_reports_one_after_another_and_strict() -> None:
    text = summary(REPORTS.values())
    assert [line[:4] for line in text.splitlines() if line.startswith("## ")] == [
        "## ❌", "## ✅", "## ❌", "## ⚠", "## ❌",
    ]  # fmt: skip
    skipped = report(passed(PAD), passed(LOSS), unasked=(CLIP,))
    assert summary([skipped]).startswith("## ✅")


def test_a_command_that_holds_fences_stays_inside_its_own() -> None:
    told = report(failed(LOSS), command=("train.py", "--prompt", "```\n# a heading"))
    tokens = GITHUB.parse(summary([told]))
    assert sum(token.type == "fence" for token in tokens) == 1
    assert sum(token.tag == "h1" for token in tokens) == 0


def test_workflow_commands_are_one_line_each_and_escaped() -> None:
    told = report(failed(LOSS, Finding(NASTY, fix="100 %\r\n::error::mend it")))
    (line,) = workflow_commands([told])
    assert "\n" not in line
    assert "\r" not in line
    kind, _, rest = line.partition(" ")
    title, _, message = rest.partition("::")
    assert (kind, title) == (
        "::error",
        "title=TS502 loss.matches_reference fail on shop.train%3Atrainer",
    )
    assert r"%0Afix: 100 %25\r%0A::error::mend it" in message


@pytest.mark.parametrize(
    ("workspace", "where"),
    [(".", "file=jobs/train%2C2.py,line=7,"), ("jobs", "file=train%2C2.py,line=7,"), ("etc", "")],
)
def test_annotations_stand_at_the_line_where_training_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: str, where: str
) -> None:
    """Names are below the repository, wherever the job runs; outside of it there is no line."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / workspace))
    script = str(tmp_path / "jobs" / "train,2.py")
    (line,) = workflow_commands([report(FAIL, command=("train,2.py",), source=(script, 7))])
    assert line.startswith(f"::error {where}title=TS")


def test_several_pipelines_begin_with_their_number() -> None:
    assert not summary([INCIDENT]).startswith("**")
    assert summary([INCIDENT, HEALTHY]).startswith("**1 of 2 not sane: shop.train:trainer**\n\n## ")


def test_ten_errors_are_all_that_github_shows() -> None:
    many = [report(failed(LOSS), failed(CLIP)) for _ in range(6)]
    lines = list(workflow_commands(many))
    assert len(lines) == ANNOTATIONS
    assert lines[-1].startswith("::error title=3 more failures::TS603 gradient.clipping fail on")


def test_a_warning_is_a_warning_and_an_error_where_it_counts_as_one() -> None:
    (line,) = workflow_commands([WARNED])
    assert line.startswith("::warning title=TS102 tokenizer.pad_is_not_eos warning on shop")
    assert f"%0Afix: {SAME_TOKEN.fix}" in line
    for policy in ({"strict": True}, {"warnings_as_errors": True}):
        (line,) = workflow_commands([under(WARNED, **policy)])
        assert line.startswith("::error title=TS102")
        assert summary([under(WARNED, **policy)]).startswith("## ❌")


def test_warnings_follow_the_failures_in_both() -> None:
    both = report(warned(PAD), failed(LOSS))
    kinds = [line.partition(" ")[0] for line in workflow_commands([both])]
    assert kinds == ["::error", "::warning"]
    text = summary([both])
    assert text.index("### ❌ TS502") < text.index("### ⚠️ TS102") < text.index("<details>")
    assert md(SAME_TOKEN.headline) in text


def test_ten_warnings_are_shown_besides_ten_errors() -> None:
    many = [report(warned(PAD), failed(LOSS)) for _ in range(12)]
    lines = list(workflow_commands(many))
    assert [line.partition(" ")[0] for line in lines] == [
        *["::error"] * ANNOTATIONS,
        *["::warning"] * ANNOTATIONS,
    ]
    assert lines[-1].startswith("::warning title=3 more warnings::TS102")


def test_accepted_is_a_notice_with_its_reason_and_gone_is_an_error() -> None:
    accepted = failed(LOSS, status=Status.XFAIL)
    (line,) = workflow_commands([report(passed(PAD), accepted)])
    assert line.startswith("::notice title=TS502 loss.matches_reference xfail")
    assert "accepted: known, see #7" in line
    gone = next(workflow_commands([REPORTS["accepted"]]))
    assert gone.startswith("::error title=TS603 gradient.clipping xpass")
    assert "expected to fail (known, #8), but passed" in gone


def test_healthy_says_nothing_but_the_summary() -> None:
    assert list(workflow_commands([REPORTS["healthy"]])) == []
    assert f"## ✅ {TARGET}: sane: 3 of 3 checks ran and passed" in summary([REPORTS["healthy"]])


def test_errors_are_told_as_errors() -> None:
    kinds = [line.partition(" ")[0] for line in workflow_commands([INCIDENT])]
    assert kinds == ["::error"] * 3
    assert "the check raised KeyError" in summary([INCIDENT])


def test_annotations_hold_no_control_characters_and_no_lone_surrogates() -> None:
    """An error's text may have any of them, and a stream takes no surrogate."""
    odd = ended(ROWS, Status.ERROR, "größe fehlt \ud800 \x1b[2J \u202e")
    (line,) = workflow_commands([report(passed(PAD), odd)])
    assert line.endswith(r"größe fehlt \ud800 \x1b[2J \u202e")
    line.encode("utf-8")
