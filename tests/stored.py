"""Reports written as JSON, read back: reporters are tested on what pipelines really say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainsanity import Check, Finding, Result, Status
from trainsanity.engine.report import Report
from trainsanity.isolation.library_warnings import LibraryWarning
from trainsanity.types import Cost, Severity

STORED = Path(__file__).parent / "snapshots" / "screens"


def stored(name: str) -> Report:
    """Return the report in a file of :data:`STORED`, whatever checks there are today."""
    document = json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))
    results = tuple(_result(row, document["pipeline"]) for row in document["results"])
    left_out = range(document["summary"]["of"] - len(results))
    unasked = tuple(
        Check(f"TS{950 + k}", f"loop.left_out_{k}", lambda: (), Cost.RUN) for k in left_out
    )
    return Report(
        document["pipeline"],
        results,
        len(results) + len(unasked),
        document["environment"],
        document["facts"],
        document["summary"]["seconds"],
        unasked=unasked,
        command=(document["pipeline"],),
        # How it was confirmed is said by the results.
        objective={key: document["objective"][key] for key in ("name", "recognised")},
        library_warnings=tuple(LibraryWarning(**one) for one in document["library_warnings"]),
    )


def _result(row: dict[str, Any], pipeline: str) -> Result:
    check = Check(row["code"], row["name"], lambda: ())
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
