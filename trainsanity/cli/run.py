"""``trainsanity run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from trainsanity.cli.base import unexpected, words
from trainsanity.cli.gate import Baseline, Expected
from trainsanity.cli.judging import (
    Judged,
    Options,
    Verdict,
    judge,
    text_of,
    verdict_on,
)
from trainsanity.cli.leaving import exit_code_kept
from trainsanity.cli.output import (
    Line,
    Output,
    OutputFile,
    progress,
    refuse_one_file_for_two,
    stdout_is_stderr,
    style,
    write,
)
from trainsanity.cli.patching import PatchFile
from trainsanity.cli.targets import TargetCommand, sources_for
from trainsanity.engine.registry import registry, takes_no_step_twice
from trainsanity.engine.report import Report
from trainsanity.errors import RankError, UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.isolation.collectives import rank, several_processes
from trainsanity.isolation.seldom import seldom_collected
from trainsanity.report import screen
from trainsanity.sources.command import Command
from trainsanity.sources.config import configuration
from trainsanity.sources.factory import Source
from trainsanity.sources.script import Script
from trainsanity.types import Check, Cost


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
    "is stopped and ends in an error, and the others run on. A factory may take 45 seconds more, "
    "for its imports.",
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
    "--sarif",
    "sarif_file",
    metavar="FILE",
    help="Write SARIF 2.1.0, e.g. for GitHub's code scanning.",
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
    "--prove-fix/--no-prove-fix",
    default=None,
    help="Try the fixes: each repair that a failure names is applied, what it explains is judged "
    "again, and the pipeline is put back; a cause that this refutes is not told. The default is to "
    "try those that together take no longer than judging did, and none with --quick, --fail-fast "
    "or several processes.",
)
@click.option(
    "--patch",
    "patch_file",
    metavar="FILE",
    help="Write the proved repairs as a diff of your script or factory, for 'git apply' or "
    "'patch -p1'; implies --prove-fix. Your files stay as they are.",
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
@click.option(
    "--quick",
    is_flag=True,
    help="Take no training step twice: leave out the laws that ask the first micro-batches again, "
    "checks that cost RUN, and those of the loop that evaluate or save.",
)
@click.option(
    "--fail-fast",
    is_flag=True,
    help="Stop after the first failure; the other checks are reported as not selected.",
)
@click.option(
    "--progress/--no-progress",
    "shown",
    default=None,
    help="Say on stderr what is being done; the default is to do so on a terminal, and elsewhere "
    "now and then.",
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
    sarif_file: str | None,
    html_file: str | None,
    summary_file: str | None,
    annotated: bool | None,
    prove_fix: bool | None,
    patch_file: str | None,
    expecting: bool,
    baseline: str | None,
    quick: bool,
    fail_fast: bool,
    shown: bool | None,
    debug: bool,
    arguments: tuple[str, ...],
) -> int:
    """Judge pipelines.

    TARGET is pkg.module:factory, a function that takes nothing and returns the Trainer that you
    would call train() on; modules are looked for in the current directory, too.  Or it is your
    training script, which runs in a process of its own until it, or a process that it starts, calls
    Trainer.train(), or until the second optimizer step of a loop of its own; the checks run there,
    and nothing of the script runs after them.  The ARGUMENTs after -- are what either finds in
    sys.argv.  Without a TARGET, a command on the PATH may follow --, as in
    'trainsanity run -- trl sft --config sft.yaml'.

    Without a TARGET, the pipelines of [tool.trainsanity] in pyproject.toml are judged, as in
    pipelines = ["train.py -- --lr 1e-5"]; its expected_failures always apply.

    CHECKS are stages, names, codes or beginnings of codes, separated by commas; 'trainsanity list'
    shows them.
    """
    sources = sources_for(targets, arguments)
    table = configuration()
    checks = _selected(table, select, ignore, max_cost, quick=quick)
    timeout = limits.checked(timeout, "--timeout") or table.get("timeout")
    if verbose and quiet:
        raise UsageError("--verbose and --quiet contradict each other: give one of them")
    if patch_file is not None and prove_fix is False:
        raise UsageError("--patch and --no-prove-fix contradict each other: give one of them")
    if warnings_as_errors is None:
        warnings_as_errors = table.get("warnings_as_errors", False)
    if baseline is not None:
        baseline = Baseline.read(baseline).path  # which is complained of before anything is built
    expected = Expected() if expecting else None
    refuse_one_file_for_two(
        {
            "--json": json_file,
            "--sarif": sarif_file,
            "--html": html_file,
            "--github-summary": summary_file,
            "--patch": patch_file,
        }
    )
    output = Output(json_file)
    sarif = None if sarif_file is None else OutputFile("--sarif", sarif_file)
    page = None if html_file is None else _page_file(html_file)
    summary = (
        None if summary_file is None else OutputFile("--github-summary", summary_file, append=True)
    )
    patch = None if patch_file is None else PatchFile(patch_file)
    if annotated is None:
        annotated = os.environ.get("GITHUB_ACTIONS") == "true"
    width, color = style(output.text)
    options = Options(
        tuple(check.name for check in checks),
        timeout,
        quick=quick,
        fail_fast=fail_fast,
        strict=strict,
        warnings_as_errors=warnings_as_errors,
        no_rows=no_rows,
        form="line" if quiet else "full" if verbose else "screen",
        width=width,
        color=color,
        debug=debug,
        annotations=annotated,
        json=json_file is not None,
        html=page is not None,
        summary=summary is not None,
        sarif=sarif is not None,
        prove_fix=prove_fix,
        patch=None if patch is None else patch.folder,
        baseline=baseline,
        expected=expecting,
    )
    verdict = _verdict(sources, options, output, shown)
    if rank():  # all processes agree, and the first one reports
        return verdict.code
    write(output.text, verdict.annotations)
    if expected is not None and verdict.expected is not None:
        write(output.text, expected.write(verdict.expected))
    if patch is not None:
        write(output.text, patch.write(verdict.patches))
    if verdict.json is not None:
        output.json(verdict.json)
    if page is not None and verdict.html is not None:
        page.write(verdict.html)
    if summary is not None and verdict.summary is not None:
        summary.write(verdict.summary)
    if sarif is not None and verdict.sarif is not None:
        sarif.write(verdict.sarif)
    return verdict.code


def _verdict(
    sources: Sequence[Source], options: Options, output: Output, shown: bool | None
) -> Verdict:
    """Judge the sources, and write the reports' text as they come."""
    source = sources[0]
    if isinstance(source, Script | Command):  # it is judged alone
        verdict = _in_a_child(source, options, shown)
        if not rank():
            write(output.text, verdict.text)
        return verdict
    judged: list[Judged] = []
    for source in sources:
        # Where several processes run, the others may have gone on to the next.
        alone = len(sources) == 1 or several_processes()
        judge_one = _judge if alone else _judge_or_say_why
        with exit_code_kept():
            judged.append(judge_one(source, options, shown))
        if rank():
            continue
        between = "\n" if len(judged) > 1 and options.form != "line" else ""
        write(output.text, between + text_of(judged[-1].report, options))
    verdict = verdict_on(judged, options)
    if len(judged) > 1 and not rank():
        between = "" if options.form == "line" else "\n"
        write(output.text, f"{between}{screen.total([one.report for one in judged])}\n")
    return verdict


def _in_a_child(source: Script | Command, options: Options, shown: bool | None) -> Verdict:
    """Judge a script or a command in processes of its own; see :mod:`.child`."""
    from trainsanity.cli.child import call_of, launch_of

    with progress(shown) as show:
        launch = launch_of(source)

        def wait() -> None:
            if not isinstance(show, Line):  # a terminal shows what the script writes itself
                show(f"{source.id} runs, and has not begun to train")

        outcome = launch.run(call_of(source, options), show, wait)
    if outcome.get("interrupted"):
        raise KeyboardInterrupt
    if "error" not in outcome:
        return Verdict(**outcome)
    if options.debug:
        sys.stderr.write(outcome.get("traceback", ""))
    match outcome.get("kind"):
        case "broken":
            raise RankError(outcome["error"])
        case "unexpected":
            raise unexpected(outcome["error"], options.debug)
        case _:
            raise UsageError(outcome["error"])


def _selected(
    table: dict[str, Any],
    select: Sequence[str],
    ignore: Sequence[str],
    max_cost: Cost | None,
    *,
    quick: bool,
) -> list[Check]:
    """Return the checks that the call selects, or else the table."""
    # What the call names counts for itself: the file's choice of checks is not mixed into it.
    chosen = words("--select", select) or table.get("select", [])
    if max_cost is None and not select:
        max_cost = table.get("max_cost")
    checks = registry().select(chosen, words("--ignore", ignore), max_cost)
    if quick:
        checks = [check for check in checks if takes_no_step_twice(check)]
    if not checks:
        also = ", --quick" if quick else ""
        raise UsageError(f"--select, --ignore{also} and --max-cost together leave no check to run")
    return checks


def _judge_or_say_why(source: Source, options: Options, shown: bool | None) -> Judged:
    """Judge one of several; that it cannot be judged is told beside the others' reports."""
    try:
        return _judge(source, options, shown)
    except UsageError as error:
        unjudged = Report.of_unjudged(source.id, str(error), len(registry().all()))
        return Judged(replace(unjudged, policy=options.policy))


def _page_file(name: str) -> OutputFile:
    from trainsanity.report import html

    html.require_extra()
    return OutputFile("--html", name)


def _judge(source: Source, options: Options, shown: bool | None) -> Judged:
    with stdout_is_stderr(), progress(shown) as show, seldom_collected():
        show(f"building {source.id}")
        return source.visit(
            lambda pipeline: judge(pipeline, options, source.expected_failures, show)
        )
