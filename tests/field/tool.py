"""The tool that is asked: the only module here that knows trainsanity's own modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import trainsanity
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run

Row = dict[str, str]
"""Name, status, text and reason of one check's result."""

TEXTS = ("message", "headline", "cause", "fix", "reason")

RAN = ("pass", "warning", "fail", "xfail", "xpass")


def load() -> None:
    """Import the checks and what they import, before processes are forked."""
    registry().select()


def judge(name: str, build: Callable[[], Any]) -> dict[str, Any]:
    """Build a pipeline and run the checks of the default gate on it."""
    spec = trainsanity.PipelineSpec(name, build)
    try:
        report = spec.visit(lambda pipeline: run(pipeline, registry().select()))
    except trainsanity.UsageError as error:
        return unjudged(2, str(error))
    rows = []
    for result in report.results:
        said = [result, *getattr(result, "findings", ())]
        texts = [str(getattr(one, key, None) or "") for one in said for key in TEXTS]
        rows.append(_row(result.check.name, str(result.status), texts, result.reason))
    return verdict(report.exit_code(), rows, report.seconds)


def read(report: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict that a JSON report of ``trainsanity run`` holds."""
    rows = []
    for row in report["results"]:
        said = [row, *(one for one in row.get("findings") or () if isinstance(one, dict))]
        texts = [str(one.get(key) or "") for one in said for key in TEXTS]
        rows.append(_row(row["name"], row["status"], texts, row.get("reason") or ""))
    return verdict(report["summary"]["exit_code"], rows, report["summary"]["seconds"])


def unjudged(code: int | str, reason: str) -> dict[str, Any]:
    """Return the verdict on a pipeline that was not judged."""
    reason = " ".join(reason.split())[:400]
    return verdict(code, [_row("build", "error", [], reason)], math.nan) | {"seconds": None}


def verdict(code: int | str, rows: Iterable[Row], seconds: float) -> dict[str, Any]:
    """Summarise the results of one pipeline in values that JSON takes."""
    rows = list(rows)
    named = {status: [row for row in rows if row["status"] == status] for status in ("fail",
             "warning", "error")}  # fmt: skip
    return {
        "exit": code,
        "red": sorted(row["name"] for row in named["fail"]),
        "warned": sorted(row["name"] for row in named["warning"]),
        "errors": {row["name"]: row["reason"][:160] for row in named["error"]},
        "ran": sum(row["status"] in RAN for row in rows),
        "seconds": round(seconds, 2),
        "texts": {row["name"]: row["text"] for row in (*named["fail"], *named["warning"])},
    }


def _row(name: str, status: str, texts: Iterable[str], reason: str) -> Row:
    text = " ".join(dict.fromkeys(filter(None, texts)))  # the JSON report repeats a finding's text
    return {"name": name, "status": status, "text": text, "reason": reason}
