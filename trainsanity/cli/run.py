"""``trainsanity run``."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from trainsanity.cli.base import words
from trainsanity.cli.gate import Baseline, Expected
from trainsanity.cli.output import Output, OutputFile, progress, stdout_is_stderr, write, write_text
from trainsanity.cli.targets import TargetCommand, sources_for
from trainsanity.engine.proof import proved
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Policy, Report
from trainsanity.engine.runner import run as run_checks
from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue
from trainsanity.errors import ExitCode, UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.isolation.collectives import rank, several_processes
from trainsanity.report import screen
from trainsanity.report.github import summary as markdown
from trainsanity.report.github import workflow_commands
from trainsanity.report.json import dumps
from trainsanity.report.pictures import Picture, pictures_of
from trainsanity.report.privacy import without_rows
from trainsanity.report.text import render as in_full
from trainsanity.sources.config import configuration
from trainsanity.sources.factory import Source
from trainsanity.types import Check, Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@click.command(cls=TargetCommand)
@click.argument("targets", metavar="[TARGET]... [-- ARGUMENT...]", nargs=-1)
@click.option("--select", multiple=True, metavar="CHECKS", help="Only these, e.g. collator,TS5.")
@click.option("--ignore", multiple=True, metavar="CHECKS", help="Not these.")
@click.option(
    "--max-cost",
    type=click.Choice(Cost, case_sensitive=False),
    help="Only checks that cost this much or less; the default is STEP, and RUN for those that "
    "--select names.",
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="The most that a check, and each measurement it needs, may take; one that takes longer "
    "is stopped and ends in an error, and the others run on.",
)
@click.option(
    "--verbose",
    "-v",
    is_flag=True,
    help="Write the whole report: every check, every number, what "
    "is ruled out, where and how fast it was measured.",
)
@click.option(
    "--no-rows",
    is_flag=True,
    help="Keep out of all reports what may come from rows of the data: "
    "quotations, lists of ids, tracebacks, pictures of batches.",
)
@click.option("--quiet", "-q", is_flag=True, help="Write one line for each pipeline.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 3 if a selected check has no verdict, and with 1 if there is a warning.",
)
@click.option(
    "--warnings-as-errors/--no-warnings-as-errors",
    default=None,
    help="Exit with 1 if there is a warning; the default is warnings_as_errors of "
    "[tool.trainsanity], or not to.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the JSON report (a list, if there are several pipelines); '-' is stdout, and the "
    "text goes to stderr.",
)
@click.option(
    "--html",
    "html_file",
    metavar="FILE",
    help="Write one self-contained page with pictures; needs trainsanity[html].",
)
@click.option(
    "--github-summary",
    "summary_file",
    metavar="FILE",
    help='Append a summary in Markdown, e.g. to "$GITHUB_STEP_SUMMARY".',
)
@click.option(
    "--github-annotations/--no-github-annotations",
    "annotated",
    default=None,
    help="Print GitHub's annotations; the default is to do so in GitHub Actions.",
)
@click.option(
    "--prove-fix",
    is_flag=True,
    help="Try the fixes: each repair that a failure names is applied, what it explains is judged "
    "again, and the pipeline is put back; a cause that this refutes is not told.",
)
@click.option(
    "--write-expected",
    "expecting",
    is_flag=True,
    help="Write today's failures into expected_failures of pyproject.toml, each with a reason to "
    "be written.",
)
@click.option(
    "--baseline",
    metavar="FILE",
    help="A JSON report of an earlier run: failures that it has are told as known, and only new "
    "ones are failures.",
)
def run(  # noqa: PLR0917 - one parameter per option
    targets: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    max_cost: Cost | None,
    timeout: float | None,
    verbose: bool,
    no_rows: bool,
    quiet: bool,
    strict: bool,
    warnings_as_errors: bool | None,
    json_file: str | None,
    html_file: str | None,
    summary_file: str | None,
    annotated: bool | None,
    prove_fix: bool,
    expecting: bool,
    baseline: str | None,
    debug: bool,
    arguments: tuple[str, ...],
) -> int:
    """Judge pipelines.

    TARGET is pkg.module:factory, a function that takes nothing and returns the Trainer that you
    would call train() on; modules are looked for in the current directory, too.  Or it is your
    training script, which runs until it calls Trainer.train(); the checks take the place of that
    call, and the script ends there.  The ARGUMENTs after -- are what either finds in sys.argv.
    Without a TARGET, the pipelines of [tool.trainsanity] in pyproject.toml are judged, as in
    pipelines = ["train.py -- --lr 1e-5"]; its expected_failures always apply.

    CHECKS are stages, names, codes or beginnings of codes, separated by commas; 'trainsanity list'
    shows them.
    """
    sources = sources_for(targets, arguments)
    table = configuration()
    checks = _selected(table, select, ignore, max_cost)
    timeout = limits.checked(timeout, "--timeout") or table.get("timeout")
    if verbose and quiet:
        raise UsageError("--verbose and --quiet contradict each other: give one of them")
    if warnings_as_errors is None:
        warnings_as_errors = table.get("warnings_as_errors", False)
    policy = Policy(strict=strict, warnings_as_errors=warnings_as_errors)
    known = None if baseline is None else Baseline.read(baseline)
    expected = Expected() if expecting else None
    output = Output(json_file)
    page = None if html_file is None else _page_file(html_file)
    summary = (
        None if summary_file is None else OutputFile("--github-summary", summary_file, append=True)
    )
    render = _in_a_line if quiet else in_full if verbose else screen.render
    reports: list[Report] = []
    pictures: list[Sequence[Picture]] = []
    for source in sources:
        # Where several processes run, the others may have gone on to the next.
        alone = len(sources) == 1 or several_processes()
        judge = _judge if alone else _judge_or_say_why
        report, shown = judge(
            source, checks, timeout, with_pictures=page is not None, prove_fix=prove_fix
        )
        report = replace(report, policy=policy)
        if known is not None:
            report = known.applied(report)
        if no_rows:
            report, shown = without_rows(report), ()
        reports.append(report)
        pictures.append(shown)
        if rank():  # all processes agree, and the first one reports
            continue
        if len(reports) > 1 and not quiet:
            output.text.write("\n")
        write_text(
            output.text,
            lambda width, color, report=report: render(  # type: ignore[misc]
                report, width=width, color=color, debug=debug
            ),
        )
    code = ExitCode.worst(report.exit_code() for report in reports)
    if rank():
        return code
    _write_last(output, reports, quiet=quiet, annotated=annotated, expected=expected)
    if json_file is not None:
        output.json(dumps(reports))
    if page is not None:
        from trainsanity.report import html

        page.write(html.render(list(zip(reports, pictures, strict=True)), debug=debug))
    if summary is not None:
        summary.write(markdown(reports))
    return code


def _write_last(
    output: Output,
    reports: Sequence[Report],
    *,
    quiet: bool,
    annotated: bool | None,
    expected: Expected | None,
) -> None:
    """Write what comes after the last report."""
    if len(reports) > 1:
        write(output.text, f"{'' if quiet else chr(10)}{screen.total(reports)}\n")
    if annotated or (annotated is None and os.environ.get("GITHUB_ACTIONS") == "true"):
        write(output.text, "".join(f"{line}\n" for line in workflow_commands(reports)))
    if expected is not None:
        write(output.text, expected.write(reports))


def _selected(
    table: dict[str, Any], select: Sequence[str], ignore: Sequence[str], max_cost: Cost | None
) -> list[Check]:
    """Return the checks that the call selects, or else the table."""
    # What the call names counts for itself: the file's choice of checks is not mixed into it.
    chosen = words("--select", select) or table.get("select", [])
    if max_cost is None and not select:
        max_cost = table.get("max_cost")
    checks = registry().select(chosen, words("--ignore", ignore), max_cost)
    if not checks:
        raise UsageError("--select, --ignore and --max-cost together leave no check to run")
    return checks


def _in_a_line(report: Report, **_: object) -> str:
    return f"{screen.line(report)}\n"


def _judge_or_say_why(
    source: Source,
    checks: list[Check],
    timeout: float | None,
    *,
    with_pictures: bool,
    prove_fix: bool,
) -> tuple[Report, Sequence[Picture]]:
    """Judge one of several; that it cannot be judged is told beside the others' reports."""
    try:
        return _judge(source, checks, timeout, with_pictures=with_pictures, prove_fix=prove_fix)
    except UsageError as error:
        return Report.of_unjudged(source.id, str(error), len(registry().all())), ()


def _page_file(name: str) -> OutputFile:
    from trainsanity.report import html

    html.require_extra()
    return OutputFile("--html", name)


def _judge(
    source: Source,
    checks: list[Check],
    timeout: float | None,
    *,
    with_pictures: bool,
    prove_fix: bool,
) -> tuple[Report, Sequence[Picture]]:
    def judge(pipeline: Pipeline) -> tuple[Report, Sequence[Picture]]:
        on_check = _connect_progress(pipeline, show_progress)
        report = run_checks(pipeline, checks, source.expected_failures, on_check, timeout)
        if prove_fix:
            report = proved(pipeline, report, show_progress, timeout)
        # Collected while the pipeline is alive: what they show is not in the report.
        return report, pictures_of(pipeline) if with_pictures else ()

    with stdout_is_stderr(), progress() as show_progress, _seldom_collected():
        show_progress(f"building {source.id}")
        return source.visit(judge)


SELDOM = 10_000
"""New objects between two collections.  With 700, Python's default up to 3.12, a fifth of the time
that it takes to import torch and transformers is spent on collections; with more, no less than with
this."""


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    young, *older = before = gc.get_threshold()
    if 0 < young < SELDOM:  # 0 is off
        gc.set_threshold(SELDOM, *older)
    try:
        yield
    finally:
        gc.set_threshold(*before)


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
