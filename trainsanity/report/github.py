"""The report inside GitHub Actions: a summary in Markdown, and annotations.

Whatever comes from the data is text there: nothing in it becomes markup, a mention or a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainsanity.report.words import (
    clean,
    confidence_in,
    coverage,
    fields_of,
    passes,
    rerun,
    row_text,
    verdict,
    with_status,
    without_verdict,
)
from trainsanity.types import Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

SIGNS = {
    Status.PASS: "✅",
    Status.FAIL: "❌",
    Status.XFAIL: "☑️",
    Status.XPASS: "❌",
    Status.SKIP: "⚪",
    Status.BLOCKED: "⚪",
    Status.ABSTAIN: "⚪",
    Status.ERROR: "❌",
}

ANNOTATIONS = 10
"""Errors that GitHub shows of one step; it drops the others without a word."""


def summary(reports: Iterable[Report], *, strict: bool = False) -> str:
    """Markdown for ``$GITHUB_STEP_SUMMARY``."""
    return "".join(f"{line}\n" for report in reports for line in _summary(report, strict=strict))


def _summary(report: Report, *, strict: bool) -> Iterator[str]:
    good = report.exit_code(strict=strict) == 0
    results = sorted(report.results, key=lambda r: r.check.order)
    sign = SIGNS[Status.PASS if good else Status.FAIL]
    yield f"## {sign} {md(report.pipeline_id)}: {md(verdict(report, strict=strict))}"
    yield ""
    yield md(" ".join(filter(None, (coverage(report), without_verdict(report)))))
    yield ""
    for note in report.environment.get("notes") or ():
        yield f"> **Note:** {md(str(note))}"
        yield ""
    for result in results:
        if result.status in (Status.FAIL, Status.ERROR, Status.XPASS):
            yield from _failure(result, report)
    if accepted := with_status(results, Status.XFAIL):
        yield from ("### Accepted failures (expected_failures)", "")
        yield from _table(("check", "saw", "accepted because"), [
            (_name(r), md(" ".join(f.headline for f in r.findings)), md(r.reason)) for r in accepted
        ])  # fmt: skip
    yield from ("<details><summary>All checks asked for</summary>", "")
    yield from _table(("", "check", "", "saw"), [
        (SIGNS[r.status], _name(r), str(r.status), md(row_text(r))) for r in results
    ])  # fmt: skip
    if ran := passes(report):
        yield from (md(f"The model ran {ran}."), "")
    yield from ("</details>", "")


def _failure(result: Result, report: Report) -> Iterator[str]:
    yield f"### {SIGNS[result.status]} {_name(result)}: {result.status}"
    yield ""
    for finding in result.findings:
        yield f"**{md(finding.headline)}**"
        yield ""
        if fields := fields_of(finding, confidence_in(finding, report)):
            yield from _table(("", ""), [(label, md(text)) for label, text in fields])
    if result.status is Status.XPASS:
        yield md(f"It is expected to fail ({result.reason}) and passes: delete its entry in "
                 f"expected_failures. {result.message}")  # fmt: skip
        yield ""
    elif not result.findings:
        yield md(result.reason)
        yield ""
    if command := rerun(report.command, result.check.code):
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", command)), 0)
        yield from (f"{fence}sh", clean(command).replace("\n", " "), fence, "")


def _name(result: Result) -> str:
    return f"{md(result.check.code)} {md(result.check.name)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def md(text: str) -> str:
    """The text as Markdown that shows just that, on one line."""
    shown = re.sub(r"[\\`*_\[\]<>&|~#$]", r"\\\g<0>", " ".join(clean(text).split()))
    # At the start of a line these would make a list or a heading.
    return re.sub(r"^(\d*)([-+=.)])(?= |=|-|$)", r"\1\\\2", shown)


def workflow_commands(reports: Sequence[Report]) -> Iterator[str]:
    """Workflow commands: an error for each failure, a notice for each that is accepted."""
    told = [
        (report, result)
        for report in reports
        for result in sorted(report.results, key=lambda r: r.check.order)
    ]
    bad = [
        (report, result)
        for report, result in told
        if result.status in (Status.FAIL, Status.XPASS, Status.ERROR)
    ]
    shown = bad if len(bad) <= ANNOTATIONS else bad[: ANNOTATIONS - 1]
    for report, result in shown:
        yield _command("error", _title(report, result), _said(result))
    if rest := bad[len(shown) :]:
        named = ", ".join(_title(report, result) for report, result in rest)
        yield _command("error", f"{len(rest)} more failures", named)
    for report, result in told:
        if result.status is Status.XFAIL:
            said = f"accepted: {result.reason}\n{_said(result)}"
            yield _command("notice", _title(report, result), said)


def _title(report: Report, result: Result) -> str:
    return f"{result.check.code} {result.check.name} {result.status} on {report.pipeline_id}"


def _said(result: Result) -> str:
    if result.status is Status.XPASS:
        return f"expected to fail ({result.reason}), but passed: delete its expected_failures entry"
    lines = []
    for finding in result.findings:
        lines.append(finding.headline)
        named = (("cause", finding.cause), ("fix", finding.fix))
        lines += [f"{label}: {text}" for label, text in named if text]
    return "\n".join(lines) or result.reason


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """As ``@actions/core`` escapes what follows the command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """As ``@actions/core`` escapes a property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
