"""The report on one screen: the verdict first and last, and between them what there is to do.

The whole report, with every number, is :mod:`trainsanity.report.text`.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from trainsanity.engine.diagnosis import same_cause, same_factor, same_repair
from trainsanity.errors import ExitCode
from trainsanity.report.console import console, fields, indented, text_of
from trainsanity.report.links import page_url
from trainsanity.report.words import (
    acceptance,
    clean,
    codes_of,
    confidence_in,
    counted,
    explained,
    headline,
    headlines,
    left_out,
    proof,
    rerun,
    root_of,
    said,
    verdict,
    with_status,
)
from trainsanity.types import STAGES, Check, Finding, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

LINES = 40
"""Lines that a report may take: a terminal of 100 columns on half of a laptop's screen has as many,
and the prompt below it.  Verdict, stages and what is left out come first, so that the first failure
is whole; what does not fit is counted, and the whole report has it."""

HEARD = 2
"""Warnings of libraries that are quoted where there is room; of more their number is told."""

NO_BREAK = "\N{NO-BREAK SPACE}"

CUT = 180
"""Characters of a sentence where space is short: two lines."""


def line(report: Report) -> str:
    """Return the verdict with the pipeline's name, in one line."""
    return f"{clean(report.pipeline_id)}: {clean(verdict(report))}"


def total(reports: Sequence[Report]) -> str:
    """Return the verdict on several pipelines, in one line that names those that are not sane."""
    failed = [r for r in reports if not r.good and _broken(r)]
    unjudged = [r for r in reports if r.unjudged]
    unknown = [r for r in reports if not (r.good or r.unjudged or _broken(r))]
    parts = [
        f"{len(some)} of {len(reports)} {word}: {', '.join(clean(r.pipeline_id) for r in some)}"
        for some, word in ((failed, "not sane"), (unknown, "incomplete"), (unjudged, "not judged"))
        if some
    ]
    return "; ".join(parts) or f"{len(reports)} of {len(reports)} sane as far as judged"


def _broken(report: Report) -> bool:
    """Return whether something failed, rather than was not judged."""
    return report.exit_code() is ExitCode.FAILED


def render(report: Report, *, width: int = 100, color: bool = False, debug: bool = False) -> str:
    """Return the report in :data:`LINES` lines, with as much of each failure as fits.

    Args:
        report: what is shown.
        width: columns; only the verdict, notes and a command, which get copied, run over.
        color: with ANSI colours, which repeat what the words say.
        debug: with the tracebacks of checks that ended in an error, however long.
    """
    text = ""
    for detail in _DETAILS:
        out = console(width, color=color)
        _Screen(out, report, detail).write(debug=debug)
        text = text_of(out)
        if text.count("\n") <= LINES:
            break
    return text


class _Detail:
    """How much is shown.

    Args:
        stages: one line a stage, rather than all in one.
        others: fields of the findings after the first.
        findings: findings of each check.
        shown: results of each kind that are shown with their findings.
        cut: characters of each sentence; None for all.
        lines: results of each kind that have a line of their own after those.
    """

    def __init__(
        self,
        *,
        stages: bool = False,
        others: Sequence[str] = ("cause", "fix"),
        findings: int = 1,
        shown: int = 1,
        cut: int | None = CUT,
        lines: int = 0,
    ) -> None:
        self.stages, self.others, self.lines = stages, others, lines
        self.findings, self.shown, self.cut = findings, shown, cut


_DETAILS = (
    _Detail(stages=True, findings=9, shown=99, cut=None),
    _Detail(findings=9, shown=99, cut=None),
    _Detail(findings=2, shown=99, cut=None),
    _Detail(shown=99),
    _Detail(shown=99, others=("fix",)),
    _Detail(shown=6, others=("fix",), cut=110, lines=LINES),
    _Detail(shown=5, others=("fix",), cut=110, lines=LINES),
    _Detail(shown=4, others=("fix",), cut=110, lines=LINES),
    _Detail(shown=3, others=("fix",), cut=110, lines=LINES),
    _Detail(shown=2, others=("fix",), cut=80, lines=LINES),
    _Detail(shown=1, others=("fix",), cut=80, lines=LINES),
    _Detail(shown=1, others=(), cut=80, lines=5),
    _Detail(shown=1, others=(), cut=80),
)
"""From all to little; the first that fits is taken."""


class _Screen:
    """Writes one report with a given amount of detail."""

    def __init__(self, out: Console, report: Report, detail: _Detail) -> None:
        self.out = out
        self.report = report
        self.detail = detail
        self.results = sorted(report.results, key=lambda r: r.check.order)
        self.first = True

    def write(self, *, debug: bool) -> None:
        self._verdict()
        self._results(with_status(self.results, Status.FAIL), "failures")
        self._results(with_status(self.results, Status.XPASS), "accepted failures that pass now")
        self._results(with_status(self.results, Status.ERROR), "errors", debug=debug)
        self._results(with_status(self.results, Status.WARNING), "warnings")
        self._results(with_status(self.results, Status.XFAIL), "accepted failures")
        self._follow()
        if self.results:
            self.out.print()
            self._stages()
        told = [left_out(self.report), *self._unfit(), *self._heard(), *self._notes()]
        for sentence in filter(None, told):
            self.out.print(Text(clean(sentence)))
        if self.results:
            self._more()
        self._verdict()

    def _verdict(self) -> None:
        title = Text(f"{clean(self.report.pipeline_id)}: ", style="bold")
        title.append(clean(verdict(self.report)), "green" if self.report.good else "red")
        # One line however long the path: it is what scripts grep for.
        self.out.print(title, soft_wrap=True)

    def _results(self, results: Sequence[Result], words: str, *, debug: bool = False) -> None:
        for result in results[: self.detail.shown]:
            self.out.print()
            self._result(result)
            if debug and result.debug:
                indented(self.out, Text(clean(result.debug.rstrip())))
            self.first = False
        at, end = self.detail.shown, self.detail.shown + self.detail.lines
        if results[at:]:
            self.out.print()
        for result in results[at:end]:
            found = headlines(result) or result.reason
            text = f"{result.check.code} {result.check.name}: {' '.join(found.split())}"
            self.out.print(Text(clean(text)), no_wrap=True, overflow="ellipsis")
        if rest := results[end:]:
            self.out.print(Text(f"{len(rest)} more {words}: {codes_of(r.check for r in rest)}"))

    def _result(self, result: Result) -> None:
        """Write a check's title, and each finding with what it has besides."""
        check = result.check
        title = Text(f"{check.code} {check.name}", style="bold")
        self.out.print(title.append("  ").append(_WORD[result.status], _STYLE[result.status]))
        for text in _sentences(result):
            indented(self.out, Text(self._cut(text)))
        # An accepted failure needs no cause and no fix: its reason was given.
        findings = () if result.status is Status.XFAIL else result.findings
        told: set[tuple[str, str]] = set()
        for finding in findings[: self.detail.findings]:
            indented(self.out, Text(self._cut(clean(headline(finding, result))), style="bold"))
            # Findings of one check often have one cause and one fix.
            new = [field for field in self._fields(finding) if field not in told]
            told.update(new)
            fields(self.out, new)
        if rest := len(findings[self.detail.findings :]):
            indented(self.out, Text(f"and {counted(rest, 'other finding')}"))
        # Behind the last finding: it is the check's, and whoever reads on reads all of them there.
        if findings and self.first and (url := page_url(check)):
            fields(self.out, [("page", url)])

    def _fields(self, finding: Finding) -> Iterator[tuple[str, str]]:
        named = {
            "where": None if finding.where and finding.where in finding.headline else finding.where,
            "cause": finding.cause,
            # A cause without candidates was concluded: "likely" says no more than that.
            "how sure": (
                confidence_in(finding, self.report)
                if finding.candidates or not finding.cause
                else ""
            ),
            "fix": finding.fix,
            "proof": proof(finding),
        }
        wanted = [*named] if self.first else ["where", *self.detail.others, "proof"]
        for label in wanted:
            if (text := named.get(label)) and (self.first or label != "where" or self._roomy):
                yield label, clean(text) if self.first else self._cut(clean(text))

    @property
    def _roomy(self) -> bool:
        return self.detail.cut is None

    def _cut(self, text: str) -> str:
        line = " ".join(text.split())
        most = self.detail.cut
        if most is None or self.first or len(line) <= most:
            return text
        return f"{line[:most].rsplit(' ', 1)[0]} …"

    def _follow(self) -> None:
        """Write one line for all that one failure explains, and one for all that it blocks."""
        lines = list(_explanations(self.results))
        blocked = [r for r in with_status(self.results, Status.BLOCKED) if not r.findings]
        lines += [
            f"{_few(checks)} can be judged after {by} is mended"
            for by, checks in _grouped([r for r in blocked if r.blocked_by], self.results)
        ]
        lines += [f"{r.check.code}: {self._cut(r.reason)}" for r in blocked if not r.blocked_by]
        if lines:
            self.out.print()
        for text in lines:
            self.out.print(Text(clean(text)))

    def _stages(self) -> None:
        rows = [row for stage in STAGES if (row := _stage(stage, self.results))]
        if self.detail.stages:
            fields(self.out, rows)
        else:
            words = [f"{name} {text}".replace(" ", NO_BREAK) for name, text in rows]
            text = textwrap.fill(" · ".join(words), self.out.width).replace(NO_BREAK, " ")
            self.out.print(Text(text))

    def _unfit(self) -> Iterator[str]:
        """Yield why checks that were asked for by name have no verdict; of many, their number."""
        if len(self.results) <= NAMED:
            for status in (Status.SKIP, Status.ABSTAIN):
                for result in with_status(self.results, status):
                    yield self._cut(f"{result.check.code} {result.check.name}: {result.reason}")

    def _heard(self) -> Iterator[str]:
        # Which checks found it as computed is for the whole report.
        if known := "; ".join(filter(None, self.report.objective.values())):
            yield self._cut(f"Objective: {known}.")
        told = [one for one in self.report.library_warnings if one.spoken]
        if self.detail.stages and len(told) <= HEARD:
            yield from (self._cut(f"{one.library} {said(one)}") for one in told)
        elif told:
            where = "-v" if self.report.command else "library_warnings"
            yield f"The libraries gave {counted(len(told), 'warning')}: see {where}."

    def _notes(self) -> Iterator[str]:
        notes = [str(note) for note in self.report.environment.get("notes") or ()]
        shown = notes if self._roomy else notes[:2]
        yield from (f"NOTE: {self._cut(note)}" for note in shown)
        if rest := len(notes) - len(shown):
            yield f"NOTE: {rest} more in the whole report"

    def _more(self) -> None:
        """Write the command that has the rest, for the first check that went wrong."""
        kinds = (Status.FAIL, Status.ERROR)
        wrong = [r for kind in kinds for r in with_status(self.results, kind)]
        if not self.report.command:
            return
        options = ("--debug",) if wrong and wrong[0].status is Status.ERROR else ()
        command = rerun(self.report.command, wrong[0].check.code, *options) if wrong else None
        text = "all numbers: -v" if command is None else f"all numbers: -v; rerun: {command}"
        # One line whatever the width: it is there to be copied.
        self.out.print(Text(clean(text)), no_wrap=True, overflow="ignore", crop=False)


_WORD = {
    Status.FAIL: "fails",
    Status.WARNING: "warning",
    Status.XFAIL: "fails as accepted",
    Status.XPASS: "passes, though it is expected to fail",
    Status.ERROR: "ended in an error: nothing is known about it",
}

_STYLE = {
    Status.FAIL: "bold red",
    Status.WARNING: "yellow",
    Status.XFAIL: "yellow",
    Status.XPASS: "bold red",
    Status.ERROR: "bold magenta",
}


NAMED = 8
"""Checks that are named one by one where all that is said of them is what they wait for."""


def _explanations(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for all that one failure explains in one way."""
    by_name = {result.check.name: result for result in results}
    ways: dict[tuple[str, str, str], list[Result]] = {}
    for result in explained(results):
        cause = by_name.get(str(result.blocked_by))
        if cause is None or same_factor(result, cause):
            way = ("shows the same factor as", "show the same factor as", ", which explains ")
        elif same_cause(result, cause):
            way = ("has the same cause as", "have the same cause as", "")
        elif same_repair(result, cause):
            way = ("needs the same repair as", "need the same repair as", "")
        else:
            way = ("follows from", "follow from", "")
        ways.setdefault(way, []).append(result)
    for (one, several, more), some in ways.items():
        for by, checks in _grouped(some, results):
            alone = len(checks) == 1
            them = f"{more}{'it' if alone else 'them'}" if more else ""
            yield f"{codes_of(checks)} {one if alone else several} {by}{them}"


def _few(checks: Sequence[Check]) -> str:
    """Return the codes of a few checks, or the number of many: the stages show where they are."""
    return codes_of(checks) if len(checks) <= NAMED else counted(len(checks), "check")


def _sentences(result: Result) -> Iterator[str]:
    """Yield what a result without a finding to mend has to say."""
    match result.status:
        case Status.ERROR:
            yield clean(result.reason)
        case Status.XPASS:
            yield f"delete its entry in expected_failures ({clean(result.reason)})"
        case Status.XFAIL:
            yield f"{clean(headlines(result))} ({acceptance(result)})"


def _grouped(
    results: Iterable[Result], every: Sequence[Result]
) -> Iterator[tuple[str, list[Check]]]:
    """Yield what stands behind blocked results, by name, with the checks of which it is said."""
    by_name = {result.check.name: result for result in every}
    groups: dict[str, list[Check]] = {}
    for result in results:
        cause = root_of(result, by_name)
        # A check that was not selected has no result here.
        name = cause.check.code if cause is not result else str(cause.blocked_by)
        groups.setdefault(name, []).append(result.check)
    yield from groups.items()


def _stage(stage: str, results: Sequence[Result]) -> tuple[str, str] | None:
    """Return a stage with how its checks ended: "✓ 11", "✗ 1, ✓ 10"; None without a verdict."""
    counts = Counter(r.status for r in results if r.check.stage == stage)
    signs = (
        ("✗", counts[Status.FAIL] + counts[Status.XPASS]),
        ("!", counts[Status.WARNING] + counts[Status.XFAIL]),
        ("✓", counts[Status.PASS]),
    )
    parts = [f"{sign} {number}" for sign, number in signs if number]
    if errors := counts[Status.ERROR]:
        parts.append(counted(errors, "error"))
    # Those with findings were judged: they show the factor of an earlier failure.
    own = [r for r in results if r.check.stage == stage]
    if same := len(explained(own)):
        parts.append(f"{same} explained")
    if waiting := counts[Status.BLOCKED] - same:
        parts.append(f"{waiting} not judged")
    return (stage, "  ".join(parts)) if parts else None
