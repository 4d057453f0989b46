"""The report for people: what is wrong, why, what to change, and who is innocent."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trainsanity.report.words import (
    accused,
    clean,
    confidence_in,
    coverage,
    explained,
    fields_of,
    observed,
    pairs,
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

_STYLE = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.XFAIL: "yellow",
    Status.XPASS: "bold red",
    Status.SKIP: "dim",
    Status.BLOCKED: "dim",
    Status.ABSTAIN: "yellow",
    Status.ERROR: "bold magenta",
}


def render(
    report: Report,
    *,
    width: int = 100,
    color: bool = False,
    strict: bool = False,
    debug: bool = False,
) -> str:
    """The whole report.

    Args:
        report: what is told.
        width: columns; only the headline and commands, which get copied, run over.
        color: with ANSI colours.  Nothing is said by colour alone.
        strict: judge as ``--strict`` does.
        debug: with the tracebacks of checks that ended in an error.
    """
    console = Console(
        file=io.StringIO(),
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
    with console.capture() as capture:
        _Writer(console, report).write(strict=strict, debug=debug)
    # Table cells are padded to their column; nobody wants those blanks in a file.
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


class _Writer:
    """Writes the sections of one report, in the order in which they are read."""

    def __init__(self, console: Console, report: Report) -> None:
        self.console = console
        self.report = report
        self.results = sorted(report.results, key=lambda r: r.check.order)
        self.accused = accused(self.results)

    def write(self, *, strict: bool, debug: bool) -> None:
        report = self.report
        good = report.exit_code(strict=strict) == 0
        headline = Text(f"{clean(report.pipeline_id)}: ", style="bold")
        headline.append(verdict(report, strict=strict), "green" if good else "red")
        # One line however long the path: it is what scripts grep for.
        self.console.print(headline, soft_wrap=True)
        failed = with_status(self.results, Status.FAIL)
        # The other headlines count for themselves.
        counted = coverage(report) if failed else ""
        if lines := " ".join(filter(None, (counted, without_verdict(report)))):
            self._line(Text(lines))
        for result in failed:
            if result is not failed[0]:
                self._heading("Also failing" if result is failed[1] else "")
            else:
                self._line(Text())
            self._failure(result)
        self._passed_unexpectedly()
        self._accepted()
        self._errors(debug=debug)
        self._explained()
        self._acquitted()
        self._table()
        self._environment()

    def _failure(self, result: Result) -> None:
        self._title(result)
        for finding in result.findings:
            self._indented(Text(clean(finding.headline), style="bold"))
            self._fields(fields_of(finding, confidence_in(finding, self.report)))
        self._command(result)

    def _title(self, result: Result, note: str = "") -> None:
        title = Text(f"{result.check.code} {result.check.name}", style="bold")
        title.append("  ").append(str(result.status), _STYLE[result.status])
        self._line(title.append(f"  {note}" if note else ""))

    def _passed_unexpectedly(self) -> None:
        results = with_status(self.results, Status.XPASS)
        if results:
            self._heading("Expected to fail, but passed: delete the entry in expected_failures")
        for result in results:
            self._title(result)
            saw = [("saw", result.message), ("reason given", result.reason)]
            self._fields([(label, clean(text)) for label, text in saw if text])
            self._command(result)

    def _accepted(self) -> None:
        results = with_status(self.results, Status.XFAIL)
        if results:
            self._heading("Accepted failures (expected_failures)")
        for result in results:
            self._title(result)
            said = [("saw", finding.headline) for finding in result.findings]
            said.append(("accepted", result.reason))
            self._fields([(label, clean(text)) for label, text in said if text])

    def _errors(self, *, debug: bool) -> None:
        results = with_status(self.results, Status.ERROR)
        if results:
            self._heading("Ended in an error: nothing is known about these")
        for result in results:
            self._title(result)
            self._indented(Text(clean(result.reason)))
            if debug and result.debug:
                self._indented(Text(clean(result.debug.rstrip())))
            self._command(result, *(() if debug else ("--debug",)))

    def _explained(self) -> None:
        results = explained(self.results)
        named = len([r for r in self.results if r.status in (Status.FAIL, Status.XFAIL)])
        if results:
            by = {0: "a check that was not asked for", 1: "it"}.get(named, "these failures")
            self._heading(f"Explained by {by}")
        self._fields(
            [(f"{r.check.code} {r.check.name}", clean(f"{observed(r)} ({r.reason})"))
             for r in results]
        )  # fmt: skip

    def _acquitted(self) -> None:
        """Who is innocent; where nothing is wrong nobody was accused, and the table has it all."""
        acquitted = self.report.diagnosis.ruled_out if self.accused else {}
        if acquitted:
            self._heading("Acquitted")
        rows = [
            (clean(suspect) if number == 0 else "", clean(sentence))
            for suspect, sentences in acquitted.items()
            for number, sentence in enumerate(sentences)
        ]
        self._fields(rows)

    def _table(self) -> None:
        self._heading("All checks asked for, in the order in which data flows")
        table = self._grid(4)
        for result in self.results:
            status = Text(str(result.status), style=_STYLE[result.status])
            check = result.check
            # What a section above has told in full is not told again.
            row = "" if self._told(result) else clean(row_text(result))
            table.add_row(Text(check.code), Text(check.name), status, Text(row))
        self._indented(table)

    def _told(self, result: Result) -> bool:
        if result.status is Status.PASS:
            return self.accused and result.check.rules_out in self.report.diagnosis.ruled_out
        if result.status is Status.BLOCKED:
            return bool(result.findings)
        return result.status in (Status.FAIL, Status.XFAIL, Status.XPASS, Status.ERROR)

    def _environment(self) -> None:
        report = self.report
        environment = dict(report.environment)
        notes = environment.pop("notes", None) or ()
        seconds = ", ".join(
            f"{name} {value:.1f}"
            for name, value in sorted(report.measured.items(), key=lambda item: -item[1])
            if value >= 0.05  # below that it would print as 0.0
        )
        self._heading("Where this was seen")
        self._fields(
            [
                ("environment", pairs(environment)),
                ("run", pairs(report.facts)),
                *(("NOTE", clean(str(note))) for note in notes),
                ("seconds", f"{report.seconds:.1f}" + (f" ({seconds})" if seconds else "")),
                *(("passes", said) for said in [passes(report)] if said),
            ]
        )

    def _command(self, result: Result, *options: str) -> None:
        command = rerun(self.report.command, result.check.code, *options)
        if command:
            # One line whatever the width: it is there to be copied.
            text = Text(f"  rerun     {clean(command)}")
            self.console.print(text, no_wrap=True, overflow="ignore", crop=False)

    def _heading(self, text: str) -> None:
        self._line(Text())
        if text:
            self._line(Text(text, style="bold underline"))

    def _fields(self, rows: Sequence[tuple[str, str]]) -> None:
        if not rows:
            return
        table = self._grid(2)
        table.columns[0].min_width = 8  # The labels of all findings end in one column.
        for label, value in rows:
            style = "bold" if label in ("fix", "NOTE") else ""
            table.add_row(Text(label, style=style), Text(value))
        self._indented(table)

    def _grid(self, columns: int) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(columns - 1):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        return table

    def _indented(self, what: Text | Table) -> None:
        self.console.print(Padding(what, (0, 0, 0, 2)))

    def _line(self, text: Text) -> None:
        self.console.print(text)
