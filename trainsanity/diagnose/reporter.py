"""Print the answers for people, in the form of the run report."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from trainsanity.engine.report import Report
from trainsanity.report.console import console, fields, heading, indented, text_of
from trainsanity.report.words import (
    clean,
    confidence_in,
    counted,
    fields_of,
    headline,
    value_text,
    with_status,
)
from trainsanity.types import Result, Status

_OPTION = re.compile(r"(?<!\S)--[a-z]+(?:-[a-z]+)*")
_WORD = {Status.FAIL: ("found", "bold red"), Status.WARNING: ("warning", "yellow")}


def verdict(report: Report) -> str:
    """Return the headline; a log never shows that a run is sane."""
    failed = with_status(report.results, Status.FAIL)
    if failed:
        return f"the log shows trouble. Look first at: {failed[0].check.stage}"
    if not report.ran:
        return "nothing could be judged"
    warned = len(with_status(report.results, Status.WARNING))
    found = f"{counted(warned, 'warning')}, nothing else" if warned else "nothing"
    return f"{found} found in the log, as far as {report.ran} of {report.total} questions go"


def render(report: Report, *, width: int = 100, color: bool = False) -> str:
    """Return the whole answer as text.

    Args:
        report: as :func:`~trainsanity.diagnose.questions.ask` makes it.
        width: columns.
        color: with ANSI colours, which repeat what the words say.
    """
    out = console(width, color=color)
    title = Text(f"{clean(report.pipeline_id)}: ", style="bold")
    out.print(title.append(verdict(report), "green" if report.good else "red"))
    known = ", ".join(f"{clean(k)} {clean(value_text(v))}" for k, v in report.facts.items())
    judged = f"{report.ran} of {report.total} questions could be judged; {known}."
    if options := options_asked_for(report):
        judged += f" To judge more, give {', '.join(options)}."
    out.print(Text(judged))
    for status in (Status.FAIL, Status.WARNING):
        for result in with_status(report.results, status):
            _found(out, result, report)
    passed = [r for r in with_status(report.results, Status.PASS) if r.message]
    _section(out, "What else the log shows", passed)
    unjudged = [r for r in report.results if r.status in (Status.SKIP, Status.ERROR)]
    _section(out, "Not judged", unjudged)
    for note in report.environment.get("notes", ()):
        out.print()
        out.print(Text(f"NOTE  {clean(str(note))}", style="bold"))
    return text_of(out)


def options_asked_for(report: Report) -> list[str]:
    """Return the options that questions without an answer name."""
    reasons = " ".join(r.reason for r in with_status(report.results, Status.SKIP))
    return list(dict.fromkeys(_OPTION.findall(reasons)))


def _found(out: Console, result: Result, report: Report) -> None:
    out.print()
    title = Text(f"{result.check.code} {result.check.name}", style="bold")
    out.print(title.append("  ").append(*_WORD[result.status]))
    for finding in result.findings:
        indented(out, Text(clean(headline(finding, result)), style="bold"))
        fields(out, fields_of(finding, confidence_in(finding, report)))


def _section(out: Console, title: str, results: Iterable[Result]) -> None:
    rows = [(f"{r.check.code} {r.check.name}", clean(r.message or r.reason)) for r in results]
    if rows:
        heading(out, title)
        fields(out, rows)
