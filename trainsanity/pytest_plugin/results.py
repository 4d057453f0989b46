"""Results as pytest carries them: texts of failures, user properties, and back again.

A test's result travels as flat ``user_properties``, so that it reaches JUnit's XML and, under
xdist, the process that writes the summary.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from _pytest._code.code import (
    ExceptionChainRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
)

from trainsanity.engine.registry import registry
from trainsanity.engine.report import Policy, Report
from trainsanity.report.json import json_value
from trainsanity.report.links import page_url
from trainsanity.report.words import (
    coverage,
    fields_of,
    headline,
    headlines,
    left_out,
    verdict,
    with_status,
    without_verdict,
)
from trainsanity.types import Check, Cost, Finding, Judges, Result, Status

if TYPE_CHECKING:
    import pytest

PREFIX = "trainsanity."

_VERBS = {Status.WARNING: "warns"}


def title(result: Result) -> str:
    """Return code and name of the result's check."""
    return f"{result.check.code} {result.check.name}"


def failure_text(result: Result) -> str:
    """Return all findings with their fields; for a result without findings its reason."""
    verb = _VERBS.get(result.status, "fails") if result.findings else "came to no verdict"
    lines = [f"{title(result)} {verb} on {result.pipeline_id}"]
    for finding in result.findings:
        lines.append(f"  {headline(finding, result)}")
        lines += [f"  {name:<9} {text}" for name, text in fields_of(finding)]
    if not result.findings:
        lines.append(f"  {result.reason}")
    return "\n".join(lines)


def as_traceback(
    item: pytest.Item,
    error: BaseException,
    result: Result | None,
    *,
    rerun: str | None,
    debug: bool,
) -> ExceptionChainRepr:
    """Return the error's text in the shape of a traceback, for pytest's summary, JUnit and xdist.

    Args:
        item: the test.
        error: its text and notes are shown; Hypothesis puts its example into the notes.
        result: the check's result, if it is known.
        rerun: the command that runs just this test.
        debug: with the traceback of what was raised in a check or while building.
    """
    lines = [str(error)]
    if rerun is not None:
        lines.append(f"  rerun     {rerun}")
    if result is not None and result.findings and (url := page_url(result.check)):
        lines.append(f"  page      {url}")
    lines += getattr(error, "__notes__", ())
    trace = result.debug if result is not None else ""
    if error.__cause__ is not None:
        trace = "".join(traceback.format_exception(error.__cause__))
    if trace:
        lines.append(trace.rstrip() if debug else "  pytest -v shows the traceback")
    path, number, _ = item.location
    first = str(error).partition("\n")[0]
    if result is not None and result.status in (Status.FAIL, Status.WARNING):
        first = f"{result.check.code}: {result.findings[0].headline}"
    where = ReprFileLocation(path, (number or 0) + 1, first)
    entry = ReprEntryNative(["\n".join([*lines, ""])])
    return ExceptionChainRepr([(ReprTraceback([entry], None, style="native"), where, None)])


def properties(result: Result) -> list[tuple[str, object]]:
    """Return the result in plain values: one property for each field that is not empty.

    JUnit has text only, so the list of findings is JSON.
    """
    row = {"pipeline": result.pipeline_id, **result.as_dict()}
    findings = json_value(row.pop("findings"))
    row |= {
        "findings": json.dumps(findings) if findings else "",
        "cost": result.check.cost.name,
        "judges": result.check.judges,
        "rules_out": result.check.rules_out,
    }
    values = {key: json_value(value) for key, value in row.items()}
    return [(PREFIX + key, value) for key, value in values.items() if value not in (None, "", [])]


def reports_of(tests: Iterable[Sequence[tuple[str, object]]], policy: Policy) -> Iterator[Report]:
    """Yield one report for each pipeline that is in the properties of some tests.

    A session that leaves out a check which judges a training step, as ``-k`` does, is complete
    without one: there no check counts as judging.
    """
    pipelines: dict[str, dict[str, Result]] = {}
    for test in tests:
        row = {name.removeprefix(PREFIX): value for name, value in test if name.startswith(PREFIX)}
        if "status" in row:
            result = _result_of(row)
            pipelines.setdefault(result.pipeline_id, {})[result.check.name] = result
    for pipeline_id, results in pipelines.items():
        unasked = tuple(check for check in registry().all() if check.name not in results)
        partly = any(check.judges and check.cost is Cost.STEP for check in unasked)
        yield Report(
            pipeline_id,
            tuple(map(_judging_nothing, results.values()) if partly else results.values()),
            total=len(results) + len(unasked),
            environment={},
            facts={},
            seconds=sum(result.seconds for result in results.values()),
            unasked=unasked,
            policy=policy,
        )


def _judging_nothing(result: Result) -> Result:
    return replace(result, check=replace(result.check, judges=None))


def _result_of(row: dict[str, Any]) -> Result:
    # The check is a stand-in: a user's own may be unknown in the process that writes the summary.
    check = Check(
        row["code"],
        row["name"],
        lambda: (),
        Cost[row["cost"]],
        rules_out=row.get("rules_out"),
        judges=Judges(row["judges"]) if "judges" in row else None,
    )
    return Result(
        check,
        row["pipeline"],
        Status(row["status"]),
        tuple(map(_finding_of, json.loads(row.get("findings", "[]")))),
        message=row.get("measured", ""),
        reason=row.get("reason", ""),
        seconds=row["seconds"],
        blocked_by=row.get("blocked_by"),
    )


def _finding_of(row: dict[str, Any]) -> Finding:
    # JSON has words for the numbers that are none.
    factor = None if row["factor"] is None else float(row["factor"])
    return Finding(**{**row, "factor": factor, "candidates": tuple(row["candidates"])})


def summary(report: Report, *, verbose: bool = False) -> Iterator[str]:
    """Yield the lines about one pipeline at the end of a run of pytest.

    Args:
        report: of all tests of the pipeline.
        verbose: with the suspects that are ruled out, and the codes of what was not judged.
    """
    yield f"{report.pipeline_id}: {verdict(report)}"
    # Which checks these are can be seen by their tests, which -v names.
    option = "--trainsanity-max-cost run"
    others = without_verdict(report) if verbose else left_out(report, waiting=True, option=option)
    yield "  " + " ".join(filter(None, (coverage(report), others)))
    diagnosis = report.diagnosis
    if diagnosis.result is not None and diagnosis.finding is not None:
        yield f"  {title(diagnosis.result)}: {diagnosis.finding.headline}"
        yield f"  how sure: {diagnosis.confidence}"
    for result in with_status(report.results, Status.WARNING):
        yield f"  warning: {title(result)}: {headlines(result)}"
    if verbose and diagnosis.result is not None:
        for suspect, sentences in diagnosis.ruled_out.items():
            yield f"  ruled out: {suspect}: {'; '.join(sentences)}"
    for status, words in (
        (Status.XPASS, "expected to fail, but passed"),
        (Status.XFAIL, "accepted"),
    ):
        for result in with_status(report.results, status):
            yield f"  {words}: {title(result)}: {result.reason}"
