"""The report for people: what is wrong, why, what to change, and what is ruled out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from trainsanity.report.console import console, fields, grid, heading, indented, text_of
from trainsanity.report.links import page_url
from trainsanity.report.words import (
    anything_wrong,
    clean,
    confidence_in,
    coverage,
    explained,
    fields_of,
    headline,
    headlines,
    library_warnings,
    objective,
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
    Status.WARNING: "yellow",
    Status.FAIL: "bold red",
    Status.XFAIL: "yellow",
    Status.XPASS: "bold red",
    Status.SKIP: "dim",
    Status.BLOCKED: "dim",
    Status.ABSTAIN: "yellow",
    Status.ERROR: "bold magenta",
}


def render(report: Report, *, width: int = 100, color: bool = False, debug: bool = False) -> str:
    """Return the whole report.

    Args:
        report: what is shown.
        width: columns; only the headline and commands, which get copied, run over.
        color: with ANSI colours, which repeat what the words say.
        debug: with the tracebacks of checks that ended in an error.
    """
    out = console(width, color=color)
    _Writer(out, report).write(debug=debug)
    return text_of(out)


class _Writer:
    """Writes the sections of one report, in the order in which they are read."""

    def __init__(self, out: Console, report: Report) -> None:
        self.out = out
        self.report = report
        self.results = sorted(report.results, key=lambda r: r.check.order)
        # Where nothing is wrong no suspect needs to be ruled out, and the table has the numbers.
        wrong = anything_wrong(self.results)
        self.ruled_out = report.diagnosis.ruled_out if wrong else {}

    def write(self, *, debug: bool) -> None:
        report = self.report
        title = Text(f"{clean(report.pipeline_id)}: ", style="bold")
        title.append(clean(verdict(report)), "green" if report.good else "red")
        # One line however long the path: it is what scripts grep for.
        self.out.print(title, soft_wrap=True)
        if report.unjudged:
            return
        failed = with_status(self.results, Status.FAIL)
        # The other headlines have the counts.
        counts = coverage(report) if failed or report.not_judged else ""
        if lines := " ".join(filter(None, (counts, without_verdict(report)))):
            self.out.print(Text(lines))
        for number, result in enumerate(failed):
            if number == 1:
                heading(self.out, "Also failing")
            else:
                self.out.print()
            self._findings(result)
        self._passed_unexpectedly()
        self._accepted()
        self._errors(debug=debug)
        self._explained()
        self._warnings()
        self._ruled_out()
        self._library_warnings()
        self._table()
        self._environment()

    def _findings(self, result: Result) -> None:
        self._title(result)
        for finding in result.findings:
            indented(self.out, Text(clean(headline(finding, result)), style="bold"))
            fields(self.out, fields_of(finding, confidence_in(finding, self.report)))
        self._command(result)
        if url := page_url(result.check):
            # As the command: there to be copied.
            text = Text(f"  page      {url}")
            self.out.print(text, no_wrap=True, overflow="ignore", crop=False)

    def _title(self, result: Result) -> None:
        title = Text(f"{result.check.code} {result.check.name}", style="bold")
        self.out.print(title.append("  ").append(str(result.status), _STYLE[result.status]))

    def _passed_unexpectedly(self) -> None:
        results = with_status(self.results, Status.XPASS)
        if results:
            heading(self.out, "Expected to fail, but passed: delete the entry in expected_failures")
        for result in results:
            self._title(result)
            rows = [("measured", result.message), ("reason given", result.reason)]
            fields(self.out, [(label, clean(text)) for label, text in rows if text])
            self._command(result)

    def _accepted(self) -> None:
        results = with_status(self.results, Status.XFAIL)
        if results:
            heading(self.out, "Accepted failures (expected_failures)")
        for result in results:
            self._title(result)
            rows = [("found", finding.headline) for finding in result.findings]
            rows.append(("accepted", result.reason))
            fields(self.out, [(label, clean(text)) for label, text in rows if text])

    def _errors(self, *, debug: bool) -> None:
        results = with_status(self.results, Status.ERROR)
        if results:
            heading(self.out, "Ended in an error: nothing is known about these")
        for result in results:
            self._title(result)
            indented(self.out, Text(clean(result.reason)))
            if debug and result.debug:
                indented(self.out, Text(clean(result.debug.rstrip())))
            self._command(result, *(() if debug else ("--debug",)))

    def _explained(self) -> None:
        results = explained(self.results)
        failures = len([r for r in self.results if r.status in (Status.FAIL, Status.XFAIL)])
        if results:
            by = {0: "a check that was not selected", 1: "it"}.get(failures, "these failures")
            heading(self.out, f"Explained by {by}")
        rows = [
            (f"{r.check.code} {r.check.name}", clean(f"{headlines(r)} ({r.reason})"))
            for r in results
        ]
        fields(self.out, rows)

    def _warnings(self) -> None:
        results = with_status(self.results, Status.WARNING)
        if results:
            fail = self.report.policy.warnings_fail
            heading(self.out, f"Warnings{', which count as failures' if fail else ''}")
        for result in results:
            self._findings(result)

    def _ruled_out(self) -> None:
        if self.ruled_out:
            heading(self.out, "Acquitted")
        rows = [
            (clean(suspect) if number == 0 else "", clean(sentence))
            for suspect, sentences in self.ruled_out.items()
            for number, sentence in enumerate(sentences)
        ]
        fields(self.out, rows, prose=True)

    def _library_warnings(self) -> None:
        rows = library_warnings(self.report)
        if rows:
            heading(self.out, "What the libraries warned of")
        fields(self.out, rows)

    def _table(self) -> None:
        heading(self.out, "All selected checks, in the order in which data flows")
        table = grid(4)
        for result in self.results:
            status = Text(str(result.status), style=_STYLE[result.status])
            check = result.check
            row = "" if self._shown_above(result) else clean(row_text(result))
            table.add_row(Text(check.code), Text(check.name), status, Text(row))
        indented(self.out, table)

    def _shown_above(self, result: Result) -> bool:
        """Return whether a section above has all that the table could say."""
        if result.status is Status.PASS:
            return result.check.rules_out in self.ruled_out
        if result.status is Status.BLOCKED:
            return bool(result.findings)
        return result.status not in (Status.SKIP, Status.ABSTAIN)

    def _environment(self) -> None:
        report = self.report
        environment = dict(report.environment)
        notes = environment.pop("notes", None) or ()
        settings = environment.pop("settings", None) or {}
        seconds = ", ".join(
            f"{name} {value:.1f}"
            for name, value in sorted(report.measured.items(), key=lambda item: -item[1])
            if value >= 0.05  # below that it would print as 0.0
        )
        heading(self.out, "Where this was measured")
        fields(
            self.out,
            [
                ("environment", pairs(environment)),
                *((name, pairs(values)) for name, values in settings.items()),
                ("run", pairs(report.facts)),
                *(("objective", clean(known)) for known in [objective(report)] if known),
                *(("NOTE", clean(str(note))) for note in notes),
                ("seconds", f"{report.seconds:.1f}" + (f" ({seconds})" if seconds else "")),
                *(("passes", ran) for ran in [passes(report)] if ran),
            ],
        )

    def _command(self, result: Result, *options: str) -> None:
        command = rerun(self.report.command, result.check.code, *options)
        if command:
            # One line whatever the width: it is there to be copied.
            text = Text(f"  rerun     {clean(command)}")
            self.out.print(text, no_wrap=True, overflow="ignore", crop=False)
