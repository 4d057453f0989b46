"""Print the answers for people, in the form of the run report."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainsanity.engine.report import Report
from trainsanity.report.words import clean, confidence_in, fields_of, value_text
from trainsanity.types import Result, Status

_OPTION = re.compile(r"(?<!\S)--[a-z]+(?:-[a-z]+)*")
_STYLE = {Status.FAIL: "bold red", Status.WARNING: "bold yellow"}
_WORD = {Status.FAIL: "found", Status.WARNING: "warning"}


def verdict(report: Report) -> str:
    """Return the headline; a log never shows that a run is sane."""
    failed = [r for r in report.results if r.status is Status.FAIL]
    if failed:
        return f"the log shows trouble. Look first at: {failed[0].check.stage}"
    if not report.ran:
        return "nothing could be judged"
    warnings = sum(r.status is Status.WARNING for r in report.results)
    found = "nothing" if not warnings else f"{warnings} warning{'s' * (warnings > 1)}"
    return f"{found} found in the log, as far as {report.ran} of {report.total} questions go"


def render(report: Report, *, width: int = 100, color: bool = False) -> str:
    """Return the whole answer as text.

    Args:
        report: from :func:`~trainsanity.diagnose.questions.ask`.
        width: columns.
        color: whether to use ANSI colours; no information is in the colour alone.
    """
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=color,
        force_jupyter=False,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    headline = Text(f"{clean(report.pipeline_id)}: ", style="bold")
    console.print(headline.append(verdict(report), "red" if report.exit_code() else "green"))
    known = ", ".join(f"{clean(k)} {clean(value_text(v))}" for k, v in report.facts.items())
    summary = f"{report.ran} of {report.total} questions could be judged; {known}."
    if options := options_asked_for(report):
        summary += f" To judge more, give {', '.join(options)}."
    console.print(Text(summary))
    for status in _WORD:
        for result in report.results:
            if result.status is status:
                _found(console, result, report)
    _section(
        console,
        "What else the log shows",
        [r for r in report.results if r.message and r.status is Status.PASS],
    )
    unjudged = (Status.SKIP, Status.ERROR)
    _section(console, "Not judged", [r for r in report.results if r.status in unjudged])
    for note in report.environment.get("notes", ()):
        console.print(Text())
        console.print(Text(f"NOTE  {clean(str(note))}", style="bold"))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def options_asked_for(report: Report) -> list[str]:
    """Return the options that unanswered questions ask for."""
    reasons = " ".join(r.reason for r in report.results if r.status is Status.SKIP)
    return list(dict.fromkeys(_OPTION.findall(reasons)))


def _found(console: Console, result: Result, report: Report) -> None:
    console.print(Text())
    title = Text(f"{result.check.code} {result.check.name}", style="bold")
    console.print(title.append("  ").append(_WORD[result.status], _STYLE[result.status]))
    for finding in result.findings:
        console.print(Padding(Text(clean(finding.headline), style="bold"), (0, 0, 0, 2)))
        fields = fields_of(finding, confidence_in(finding, report))
        _rows(console, [(label, value, "") for label, value in fields])


def _section(console: Console, title: str, results: Iterable[Result]) -> None:
    rows = [(f"{r.check.code} {r.check.name}", clean(r.message or r.reason), "") for r in results]
    if rows:
        console.print(Text())
        console.print(Text(title, style="bold underline"))
        _rows(console, rows)


def _rows(console: Console, rows: Iterable[tuple[str, str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.columns[0].min_width = 8
    for label, value, style in rows:
        table.add_row(Text(label, style="bold" if label == "fix" else style), Text(value))
    console.print(Padding(table, (0, 0, 0, 2)))
