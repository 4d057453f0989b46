"""Judge a pipeline as ``trainsanity run`` was asked to, and make everything that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainsanity.engine.registry import registry
from trainsanity.engine.report import Policy, Report
from trainsanity.engine.runner import run as run_checks
from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue
from trainsanity.errors import ExitCode
from trainsanity.report import screen
from trainsanity.report.github import summary as markdown
from trainsanity.report.github import workflow_commands
from trainsanity.report.json import dumps
from trainsanity.report.pictures import Picture, pictures_of
from trainsanity.report.privacy import without_rows
from trainsanity.report.text import render as in_full
from trainsanity.types import Check, Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

Judged = tuple[Report, Sequence[Picture]]


@dataclass(frozen=True)
class Options:
    """What a call of ``trainsanity run`` asks for, in values that JSON takes.

    Attributes:
        checks: names, in the order of the report.
        timeout: seconds that a check, and each measurement, may take.
        quick: take no training step twice.
        fail_fast: stop after the first failure.
        strict, warnings_as_errors: as in :class:`Policy`.
        no_rows: keep out of all reports what may come from rows.
        form: ``screen``, ``full`` or ``line``.
        width, color: of the text.
        debug: show tracebacks.
        annotations, json, html, summary: which reports are wanted beside the text.
    """

    checks: tuple[str, ...]
    timeout: float | None = None
    quick: bool = False
    fail_fast: bool = False
    strict: bool = False
    warnings_as_errors: bool = False
    no_rows: bool = False
    form: str = "screen"
    width: int = 100
    color: bool = False
    debug: bool = False
    annotations: bool = False
    json: bool = False
    html: bool = False
    summary: bool = False

    @property
    def policy(self) -> Policy:
        """Return what counts as a failure."""
        return Policy(strict=self.strict, warnings_as_errors=self.warnings_as_errors)


@dataclass(frozen=True)
class Verdict:
    """What a call writes, and its exit code; None and empty for what was not asked for."""

    code: int
    text: str = ""
    annotations: str = ""
    json: str | None = None
    html: str | None = None
    summary: str | None = None


def judge(
    pipeline: Pipeline,
    options: Options,
    expected_failures: Mapping[str, str],
    show: Callable[[str], None],
) -> Judged:
    """Return the report on a pipeline, and its pictures.

    Args:
        pipeline: what is judged.
        options: how.
        expected_failures: check name to the reason why its failure is accepted.
        show: called with what is being measured, for a line of progress.
    """
    checks = [registry().get(name) for name in options.checks]
    pipeline.quick = options.quick
    on_check = _connect_progress(pipeline, show)
    report = run_checks(
        pipeline,
        checks,
        expected_failures,
        on_check,
        options.timeout,
        fail_fast=options.fail_fast,
    )
    report = replace(report, policy=options.policy)
    # Collected while the pipeline is alive: what they show is not in the report.
    pictures: Sequence[Picture] = pictures_of(pipeline) if options.html else ()
    return (without_rows(report), ()) if options.no_rows else (report, pictures)


def text_of(report: Report, options: Options) -> str:
    """Return the report as text."""
    if options.form == "line":
        return f"{screen.line(report)}\n"
    render = in_full if options.form == "full" else screen.render
    return render(report, width=options.width, color=options.color, debug=options.debug)


def verdict_on(judged: Sequence[Judged], options: Options, text: str = "") -> Verdict:
    """Return what is to be written of these reports beside their text."""
    reports = [report for report, _ in judged]
    page = None
    if options.html:
        from trainsanity.report import html

        page = html.render(list(judged), debug=options.debug)
    lines = workflow_commands(reports) if options.annotations else ()
    return Verdict(
        ExitCode.worst(report.exit_code() for report in reports),
        text,
        "".join(f"{line}\n" for line in lines),
        dumps(reports) if options.json else None,
        page,
        markdown(reports) if options.summary else None,
    )


def takes_no_step_twice(check: Check) -> bool:
    """Return whether a check is one of ``--quick``.

    Those of the loop that cost a step evaluate, save and load; what the recorded step shows of the
    loop costs nothing more.
    """
    if check.stage != "loop" or check.cost < Cost.STEP:
        return check.cost < Cost.RUN
    return check.cost < Cost.RUN and "recording" in check.inputs


def _connect_progress(pipeline: Pipeline, show: Callable[[str], None]) -> Callable[[Check], None]:
    """Have the pipeline show what it measures, and for which check."""
    current = ""

    def on_check(check: Check) -> None:
        nonlocal current
        current = f"{check.code} {check.name} ({check.cost.name.lower()})"
        show(current)

    Session.of(pipeline).measurements.on_start = lambda name: show(
        f"{current}: {catalogue()[name].title}"
    )
    pipeline.progress = lambda done, of, what: show(f"{current}: {what}, {done:,} of {of:,}")
    return on_check
