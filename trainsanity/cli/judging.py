"""Judge a pipeline as ``trainsanity run`` was asked to, and make everything that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from trainsanity.cli.gate import Baseline, entries_of
from trainsanity.engine.progress import connected
from trainsanity.engine.proof import proved, proved_if_cheap
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Policy, Report
from trainsanity.engine.runner import run as run_checks
from trainsanity.errors import ExitCode
from trainsanity.patches import Patch, patch_of
from trainsanity.report import screen
from trainsanity.report.github import summary as markdown
from trainsanity.report.github import workflow_commands
from trainsanity.report.json import dumps
from trainsanity.report.pictures import Picture, pictures_of
from trainsanity.report.privacy import without_rows
from trainsanity.report.sarif import dumps as as_sarif
from trainsanity.report.text import render as in_full

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class Judged(NamedTuple):
    """What is known of one pipeline when it is gone."""

    report: Report
    pictures: Sequence[Picture] = ()
    patch: Patch | None = None


@dataclass(frozen=True)
class Options:
    """What a call of ``trainsanity run`` asks for, in values that JSON takes.

    Attributes:
        checks: names, in the order of the report.
        timeout: seconds that a check, and each measurement, may take.
        quick: take no training step twice.
        fail_fast: stop after the first failure.
        strict, warnings_as_errors: as in :class:`Policy`.
        prove_fix: try the repairs that failures name; None for those that cost little.
        patch: folder that a patch of the proved ones begins at; None if none is wanted.
        baseline: path of an earlier JSON report, whose failures are known; None for none.
        no_rows: keep out of all reports what may come from rows.
        form: ``screen``, ``full`` or ``line``.
        width, color: of the text.
        debug: show tracebacks.
        annotations, json, html, summary, sarif: which reports are wanted beside the text.
        expected: whether entries for ``expected_failures`` are.
    """

    checks: tuple[str, ...]
    timeout: float | None = None
    quick: bool = False
    fail_fast: bool = False
    strict: bool = False
    warnings_as_errors: bool = False
    prove_fix: bool | None = None
    patch: str | None = None
    baseline: str | None = None
    no_rows: bool = False
    form: str = "screen"
    width: int = 100
    color: bool = False
    debug: bool = False
    annotations: bool = False
    json: bool = False
    html: bool = False
    summary: bool = False
    sarif: bool = False
    expected: bool = False

    @property
    def policy(self) -> Policy:
        """Return what counts as a failure."""
        return Policy(strict=self.strict, warnings_as_errors=self.warnings_as_errors)

    @property
    def tries_what_costs_little(self) -> bool:
        """Return whether repairs are tried although nobody asked for that."""
        short = self.quick or self.fail_fast
        return self.prove_fix is None and self.patch is None and not short


@dataclass(frozen=True)
class Verdict:
    """What a call writes, and its exit code; None and empty for what was not asked for."""

    code: int
    text: str = ""
    annotations: str = ""
    json: str | None = None
    html: str | None = None
    summary: str | None = None
    sarif: str | None = None
    expected: Mapping[str, Mapping[str, str]] | None = None
    patches: Sequence[Mapping[str, Any]] = ()


def judge(
    pipeline: Pipeline,
    options: Options,
    expected_failures: Mapping[str, str],
    show: Callable[[str], None],
) -> Judged:
    """Return the report on a pipeline, its pictures, and its patch.

    Args:
        pipeline: what is judged.
        options: how.
        expected_failures: check name to the reason why its failure is accepted.
        show: called with what is being measured, for a line of progress.
    """
    checks = [registry().get(name) for name in options.checks]
    pipeline.quick = options.quick
    on_check = connected(pipeline, show, checks)
    report = run_checks(
        pipeline,
        checks,
        expected_failures,
        on_check,
        options.timeout,
        fail_fast=options.fail_fast,
    )
    patch = None

    def on_repair(words: str) -> None:
        show(f"trying {words}")

    if options.prove_fix or options.patch is not None:
        report = proved(pipeline, report, on_repair, options.timeout)
    if options.patch is not None:
        # Made while the script is in its call of train(): its frames tell the lines.
        patch = patch_of(pipeline, report, options.patch)
    report = replace(report, policy=options.policy)
    if options.baseline is not None:
        report = Baseline.read(options.baseline).applied(report)
    # Failures that are known, and runs that are to be short, are not looked at a second time.
    if options.tries_what_costs_little:
        report = proved_if_cheap(pipeline, report, on_repair, options.timeout)
    # Collected while the pipeline is alive: what they show is not in the report.
    pictures: Sequence[Picture] = pictures_of(pipeline) if options.html else ()
    if options.no_rows:
        return Judged(without_rows(report), (), patch)
    return Judged(report, pictures, patch)


def text_of(report: Report, options: Options) -> str:
    """Return the report as text."""
    if options.form == "line":
        return f"{screen.line(report)}\n"
    render = in_full if options.form == "full" else screen.render
    return render(report, width=options.width, color=options.color, debug=options.debug)


def verdict_on(judged: Sequence[Judged], options: Options, text: str = "") -> Verdict:
    """Return what is to be written of these reports beside their text."""
    reports = [one.report for one in judged]
    page = None
    if options.html:
        from trainsanity.report import html

        page = html.render([(one.report, one.pictures) for one in judged], debug=options.debug)
    lines = workflow_commands(reports) if options.annotations else ()
    return Verdict(
        ExitCode.worst(report.exit_code() for report in reports),
        text,
        "".join(f"{line}\n" for line in lines),
        dumps(reports) if options.json else None,
        page,
        markdown(reports) if options.summary else None,
        as_sarif(reports) if options.sarif else None,
        entries_of(reports) if options.expected else None,
        [asdict(one.patch) for one in judged if one.patch is not None],
    )
