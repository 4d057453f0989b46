"""Reports written as JSON, read back: reporters are tested on what pipelines really say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainsanity import Check, Finding, Result, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.types import Severity

STORED = Path(__file__).parent / "snapshots" / "screens"


def stored(name: str) -> Report:
    """Return the report in a file of :data:`STORED`; checks of today stand for those of then."""
    document = json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))
    known = {check.name: check for check in registry().all()}
    results = tuple(_result(row, document["pipeline"], known) for row in document["results"])
    named = {result.check.name for result in results}
    unasked = tuple(check for check in known.values() if check.name not in named)
    return Report(
        document["pipeline"],
        results,
        len(results) + len(unasked),
        document["environment"],
        document["facts"],
        document["summary"]["seconds"],
        unasked=unasked,
        command=(document["pipeline"],),
    )


def _result(row: dict[str, Any], pipeline: str, known: dict[str, Check]) -> Result:
    check = known.get(row["name"]) or Check(row["code"], row["name"], lambda: ())
    findings = tuple(
        Finding(
            **{
                **finding,
                "candidates": tuple(finding["candidates"]),
                "severity": Severity(finding["severity"]),
            }
        )
        for finding in row["findings"]
    )
    return Result(
        check,
        pipeline,
        Status(row["status"]),
        findings,
        row["observed"],
        row["expected"],
        row["measured"],
        row["reason"],
        row["seconds"],
        row["blocked_by"],
    )
