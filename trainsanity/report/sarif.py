"""The report as SARIF 2.1.0, which GitHub's code scanning and editors read.

A failure is an ``error``, a warning a ``warning``, an accepted failure is suppressed with its
reason.  What lies in the data or in the model has no line; a result then points at the line where
the pipeline comes from: the factory's ``def``, or the line of a script at which training begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity import __version__
from trainsanity.report.json import encode
from trainsanity.report.links import SITE, page_url
from trainsanity.report.places import source_of
from trainsanity.report.words import clean, headline, proof, rerun
from trainsanity.types import Check, Finding, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
VERSION = "2.1.0"

_SHOWN = (Status.FAIL, Status.WARNING, Status.XFAIL, Status.XPASS, Status.ERROR)


def dumps(reports: Sequence[Report]) -> str:
    """Return the text of the SARIF file: one run, with the results of all pipelines."""
    return encode(document(reports))


def document(reports: Sequence[Report]) -> dict[str, Any]:
    """Return the SARIF log of some reports as JSON values."""
    shown = [(report, r) for report in reports for r in _shown(report)]
    rules = {result.check.code: result.check for _, result in shown}
    places = {code: index for index, code in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": VERSION,
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "trainsanity",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "informationUri": SITE,
                        "rules": [_rule(check) for check in rules.values()],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(reports)],
                "originalUriBaseIds": {"%SRCROOT%": {"uri": f"{Path.cwd().as_uri()}/"}},
                "results": [
                    found
                    for report, result in shown
                    for found in _results(report, result, places[result.check.code])
                ],
            }
        ],
    }


def _shown(report: Report) -> list[Result]:
    """Return the results that somebody has to look at, in the order in which data flows."""
    results = [result for result in report.results if result.status in _SHOWN]
    return sorted(results, key=lambda result: result.check.order)


def _invocation(reports: Iterable[Report]) -> dict[str, Any]:
    """Return whether the checks ran, and which pipelines could not be judged."""
    unjudged = [report for report in reports if report.unjudged]
    notes = [
        {"level": "error", "message": {"text": f"{report.pipeline_id}: {report.unjudged}"}}
        for report in unjudged
    ]
    return {"executionSuccessful": not unjudged, "toolExecutionNotifications": notes}


def _rule(check: Check) -> dict[str, Any]:
    title = check.title.replace("``", "").rstrip(".")
    rule = {
        "id": check.code,
        "name": check.name,
        "shortDescription": {"text": title or check.name},
        "properties": {"tags": [check.stage]},
    }
    if url := page_url(check):
        rule["helpUri"] = url
    return rule


def _results(report: Report, result: Result, rule: int) -> Iterator[dict[str, Any]]:
    """Yield one SARIF result for each finding, or one for a result that has none."""
    for finding in result.findings or (None,):
        text = _text(finding, result)
        one: dict[str, Any] = {
            "ruleId": result.check.code,
            "ruleIndex": rule,
            "level": _level(report, result, finding),
            "message": {"text": text},
            "locations": [_location(report, finding)],
            # Stable while numbers change, so that one alert stays one alert.
            "partialFingerprints": {"trainsanity/1": _fingerprint(report, result, finding)},
            "properties": {"pipeline": report.pipeline_id, "stage": result.check.stage},
        }
        if command := rerun(report.command, result.check.code):
            one["properties"]["rerun"] = command
        if result.status is Status.XFAIL:
            one["suppressions"] = [{"kind": "external", "justification": clean(result.reason)}]
        yield one


def _text(finding: Finding | None, result: Result) -> str:
    if finding is None:
        if result.status is Status.XPASS:
            return clean(f"passes, though it is expected to fail ({result.reason})")
        return clean(result.reason) or f"{result.check.name}: {result.status}"
    named = (("cause", finding.cause), ("fix", finding.fix), ("proof", proof(finding)))
    lines = [headline(finding, result), *(f"{label}: {text}" for label, text in named if text)]
    return clean("\n".join(lines))


def _level(report: Report, result: Result, finding: Finding | None) -> str:
    warned = finding is not None and finding.severity is Severity.WARNING
    return "warning" if warned and not report.policy.warnings_fail else "error"


def _fingerprint(report: Report, result: Result, finding: Finding | None) -> str:
    at = result.findings.index(finding) if finding is not None else 0
    text = "\n".join((report.pipeline_id, result.check.code, str(at)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _location(report: Report, finding: Finding | None) -> dict[str, Any]:
    """Return where the pipeline is built, and in words what the finding is about."""
    named = [{"fullyQualifiedName": report.pipeline_id, "kind": "function"}]
    if finding is not None and finding.where:
        named.append({"fullyQualifiedName": clean(finding.where), "kind": "resource"})
    found: dict[str, Any] = {"logicalLocations": named}
    if source := source_of(report):
        path, line = source
        found["physicalLocation"] = {
            "artifactLocation": _artifact(path),
            "region": {"startLine": line},
        }
    return found


def _artifact(path: Path) -> dict[str, str]:
    here = f"{Path.cwd().as_uri()}/"
    uri = path.as_uri()  # what a URI may not hold is quoted
    if not uri.startswith(here):
        return {"uri": uri}
    return {"uri": uri.removeprefix(here), "uriBaseId": "%SRCROOT%"}
