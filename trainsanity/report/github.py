"""The report inside GitHub Actions: a summary in Markdown, and annotations.

Whatever comes from the data is text there: nothing in it becomes markup, a mention or a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainsanity.report.links import page_url
from trainsanity.report.places import in_repository, source_of
from trainsanity.report.screen import total
from trainsanity.report.words import (
    acceptance,
    clean,
    confidence_in,
    coverage,
    fields_of,
    headline,
    headlines,
    left_out,
    passes,
    proof,
    rerun,
    row_text,
    verdict,
    with_status,
)
from trainsanity.types import Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

SIGNS = {
    Status.PASS: "✅",
    Status.WARNING: "⚠️",
    Status.FAIL: "❌",
    Status.XFAIL: "☑️",
    Status.XPASS: "❌",
    Status.SKIP: "⚪",
    Status.BLOCKED: "⚪",
    Status.ABSTAIN: "⚪",
    Status.ERROR: "❌",
}

ANNOTATIONS = 10
"""Annotations of one kind that GitHub shows of one step; it drops the others silently."""


def summary(reports: Sequence[Report]) -> str:
    """Return Markdown for ``$GITHUB_STEP_SUMMARY``."""
    lines = [line for report in reports for line in _summary(report)]
    if len(reports) > 1:
        lines = [f"**{md(total(reports))}**", "", *lines]
    return "".join(f"{line}\n" for line in lines)


def _summary(report: Report) -> Iterator[str]:
    results = sorted(report.results, key=lambda r: r.check.order)
    warned = with_status(results, Status.WARNING)
    sign = SIGNS[Status.FAIL]
    if report.good:
        sign = SIGNS[Status.WARNING if warned else Status.PASS]
    yield f"## {sign} {md(report.pipeline_id)}: {md(verdict(report))}"
    yield ""
    if report.unjudged:
        return
    yield md(" ".join(filter(None, (coverage(report), left_out(report, waiting=True)))))
    yield ""
    for note in report.environment.get("notes") or ():
        yield f"> **Note:** {md(str(note))}"
        yield ""
    for result in results:
        if result.status in (Status.FAIL, Status.ERROR, Status.XPASS):
            yield from _found(result, report)
    for result in warned:
        yield from _found(result, report)
    if accepted := with_status(results, Status.XFAIL):
        yield from ("### Accepted failures (expected_failures)", "")
        yield from _table(("check", "found", "accepted because"), [
            (_name(r), md(headlines(r)), md(r.reason)) for r in accepted
        ])  # fmt: skip
    yield from ("<details><summary>All selected checks</summary>", "")
    yield from _table(("", "check", "", "measured"), [
        (SIGNS[r.status], _name(r), str(r.status), md(row_text(r))) for r in results
    ])  # fmt: skip
    if ran := passes(report):
        yield from (md(f"The model ran {ran}."), "")
    yield from ("</details>", "")


def _found(result: Result, report: Report) -> Iterator[str]:
    yield f"### {SIGNS[result.status]} {_name(result)}: {result.status}"
    yield ""
    for finding in result.findings:
        yield f"**{md(headline(finding, result))}**"
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
    if result.findings:
        yield from _page(result)


def _name(result: Result) -> str:
    return f"{md(result.check.code)} {md(result.check.name)}"


def _page(result: Result) -> Iterator[str]:
    """Yield a link to the check's page, if it has one."""
    if url := page_url(result.check):
        yield from (f"[What {md(result.check.code)} checks, and how to fix it]({url})", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def md(text: str) -> str:
    """Return Markdown that shows just this text, on one line."""
    shown = re.sub(r"[\\`*_\[\]<>&|~#$]", r"\\\g<0>", " ".join(clean(text).split()))
    # At the start of a line these would make a list or a heading.
    return re.sub(r"^(\d*)([-+=.)])(?= |=|-|$)", r"\1\\\2", shown)


def workflow_commands(reports: Sequence[Report]) -> Iterator[str]:
    """Yield workflow commands: errors, warnings, and a notice for each accepted failure."""
    errors: list[tuple[Report, Result]] = []
    warnings: list[tuple[Report, Result]] = []
    accepted: list[tuple[Report, Result]] = []
    for report in reports:
        if report.unjudged:
            yield _command("error", report, f"{report.pipeline_id} was not judged", report.unjudged)
        for result in sorted(report.results, key=lambda r: r.check.order):
            if result.status in (Status.FAIL, Status.XPASS, Status.ERROR):
                errors.append((report, result))
            elif result.status is Status.WARNING:
                (errors if report.policy.warnings_fail else warnings).append((report, result))
            elif result.status is Status.XFAIL:
                accepted.append((report, result))
    yield from _annotations("error", errors, "failures")
    yield from _annotations("warning", warnings, "warnings")
    for report, result in accepted:
        message = f"{acceptance(result)}\n{_message(result)}"
        yield _command("notice", report, _title(report, result), message)


def _annotations(kind: str, results: Sequence[tuple[Report, Result]], what: str) -> Iterator[str]:
    """Yield one command for each result; the last one names those that GitHub would drop."""
    shown = results if len(results) <= ANNOTATIONS else results[: ANNOTATIONS - 1]
    for report, result in shown:
        yield _command(kind, report, _title(report, result), _message(result))
    if rest := results[len(shown) :]:
        named = ", ".join(_title(report, result) for report, result in rest)
        yield _command(kind, rest[0][0], f"{len(rest)} more {what}", named)


def _title(report: Report, result: Result) -> str:
    return f"{result.check.code} {result.check.name} {result.status} on {report.pipeline_id}"


def _message(result: Result) -> str:
    if result.status is Status.XPASS:
        return f"expected to fail ({result.reason}), but passed: delete its expected_failures entry"
    lines = []
    for finding in result.findings:
        lines.append(headline(finding, result))
        named = (("cause", finding.cause), ("fix", finding.fix), ("proof", proof(finding)))
        lines += [f"{label}: {text}" for label, text in named if text]
    if lines and (url := page_url(result.check)):
        lines.append(f"page: {url}")
    return "\n".join(lines) or result.reason


def _command(kind: str, report: Report, title: str, message: str) -> str:
    """Return an annotation, beside the line where the pipeline comes from if that is known."""
    where = ""
    if (source := source_of(report)) and (file := in_repository(source[0])):
        where = f"file={_property(clean(file))},line={source[1]},"
    return f"::{kind} {where}title={_property(clean(title))}::{_data(clean(message))}"


def _data(text: str) -> str:
    """Escape what follows the command, as ``@actions/core`` does."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property, as ``@actions/core`` does."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
