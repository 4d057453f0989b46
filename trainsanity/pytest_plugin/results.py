"""Results as pytest carries them: texts of failures, user properties, and back again.

A test's result travels as flat ``user_properties``, so that it reaches JUnit's XML and, under
xdist, the process that writes the summary.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from _pytest._code.code import (
    ExceptionChainRepr,
    ReprEntryNative,
    ReprFileLocation,
    ReprTraceback,
)

from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.report.json import json_value
from trainsanity.report.words import coverage, fields_of, verdict, with_status, without_verdict
from trainsanity.types import Check, Cost, Finding, Result, Status

if TYPE_CHECKING:
    import pytest

PREFIX = "trainsanity."
_FINDING = ("message", "observed", "expected", "where", "factor", "cause", "fix", "candidates")


def title(result: Result) -> str:
    """Code and name."""
    return f"{result.check.code} {result.check.name}"


def failure_text(result: Result) -> str:
    """Everything that the findings say; for a result without findings its reason."""
    verb = "fails" if result.findings else "came to no verdict"
    lines = [f"{title(result)} {verb} on {result.pipeline_id}"]
    for finding in result.findings:
        lines.append(f"  {finding.headline}")
        lines += [f"  {name:<9} {text}" for name, text in fields_of(finding)]
    if not result.findings:
        lines.append(f"  {result.reason}")
    return "\n".join(lines)


def told(
    item: pytest.Item,
    error: BaseException,
    result: Result | None,
    *,
    rerun: str | None,
    debug: bool,
) -> ExceptionChainRepr:
    """The error's text in the shape of a traceback, as pytest's summary, JUnit and xdist want it.

    Args:
        item: the test.
        error: its text and notes are told; Hypothesis puts its example into the notes.
        result: of the check, if it is known.
        rerun: the command that runs just this.
        debug: with the traceback of what went wrong in a check or while building.
    """
    lines = [str(error)]
    if rerun is not None:
        lines.append(f"  rerun     {rerun}")
    lines += getattr(error, "__notes__", ())
    trace = result.debug if result is not None else ""
    if error.__cause__ is not None:
        trace = "".join(traceback.format_exception(error.__cause__))
    if trace:
        lines.append(trace.rstrip() if debug else "  pytest -v shows the traceback")
    path, number, _ = item.location
    first = str(error).partition("\n")[0]
    if result is not None and result.status is Status.FAIL:
        first = f"{result.check.code}: {result.findings[0].headline}"
    where = ReprFileLocation(path, (number or 0) + 1, first)
    entry = ReprEntryNative(["\n".join([*lines, ""])])
    return ExceptionChainRepr([(ReprTraceback([entry], None, style="native"), where, None)])


def properties(result: Result) -> list[tuple[str, object]]:
    """The result in plain values, one property for each field that says something."""
    row = {
        "pipeline": result.pipeline_id,
        **result.as_dict(),
        "blocked_by": result.blocked_by,
        "acquits": result.check.rules_out,
    }
    values = {key: json_value(value) for key, value in row.items()}
    return [(PREFIX + key, value) for key, value in values.items() if value not in (None, "", [])]


def reports_of(tests: Iterable[Sequence[tuple[str, object]]]) -> Iterator[Report]:
    """One report for each pipeline that the properties of some tests tell of."""
    pipelines: dict[str, dict[str, Result]] = {}
    for told in tests:
        row = {name.removeprefix(PREFIX): value for name, value in told if name.startswith(PREFIX)}
        if "status" in row:
            result = _result_of(row)
            pipelines.setdefault(result.pipeline_id, {})[result.check.name] = result
    for pipeline_id, results in pipelines.items():
        unasked = tuple(check for check in registry().all() if check.name not in results)
        yield Report(
            pipeline_id,
            tuple(results.values()),
            total=len(results) + len(unasked),
            environment={},
            facts={},
            seconds=sum(result.seconds for result in results.values()),
            unasked=unasked,
        )


def _result_of(row: dict[str, Any]) -> Result:
    # The check is a stand-in: a user's own may be unknown in the process that writes the summary.
    cost = next((c.cost for c in registry().all() if c.name == row["name"]), Cost.STATIC)
    check = Check(row["code"], row["name"], lambda: (), cost, rules_out=row.get("acquits"))
    status = Status(row["status"])
    said = {name: row[name] for name in _FINDING if name in row}
    said["candidates"] = tuple(row.get("candidates", ()))
    # What is blocked by the same factor speaks for the cause of the failure before it.
    found = status in (Status.FAIL, Status.XFAIL) or "factor" in row
    finding = Finding(**{"message": "", **said})
    return Result(
        check,
        row["pipeline"],
        status,
        (finding,) if found else (),
        message=row.get("message", ""),
        reason=row.get("reason", ""),
        seconds=row["seconds"],
        blocked_by=row.get("blocked_by"),
    )


def summary(report: Report) -> Iterator[str]:
    """The lines at the end of a run of pytest."""
    yield f"{report.pipeline_id}: {verdict(report)}"
    yield "  " + " ".join(filter(None, (coverage(report), without_verdict(report))))
    diagnosis = report.diagnosis
    if diagnosis.result is not None and diagnosis.finding is not None:
        yield f"  {title(diagnosis.result)}: {diagnosis.finding.headline}"
        yield f"  how sure: {diagnosis.confidence}"
        for suspect, sentences in diagnosis.ruled_out.items():
            yield f"  acquitted: {suspect}: {'; '.join(sentences)}"
    for status, said in (
        (Status.XPASS, "expected to fail, but passed"),
        (Status.XFAIL, "accepted"),
    ):
        for result in with_status(report.results, status):
            yield f"  {said}: {title(result)}: {result.reason}"
