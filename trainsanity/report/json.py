"""The report for machines, in JSON that every parser takes; ``schema.json`` describes it."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import resources
from typing import TYPE_CHECKING, Any

from trainsanity import __version__
from trainsanity.report.links import page_url
from trainsanity.report.privacy import holds_rows

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.types import Result

SCHEMA = 2
"""Rises when a key changes its meaning or goes; new keys may come without that."""


def as_dict(report: Report) -> dict[str, Any]:
    """Return the JSON values of one report."""
    diagnosis = report.diagnosis
    document = {
        "schema": SCHEMA,
        "trainsanity": __version__,
        "environment": report.environment,
        "pipeline": report.pipeline_id,
        "facts": report.facts,
        "holds_rows": holds_rows(report),
        "objective": report.recognition,
        "unjudged": report.unjudged or None,
        "results": [_result(result) for result in report.results],
        "measurements": [_measured(report, name) for name in report.measured],
        "library_warnings": [vars(one) for one in report.library_warnings],
        "summary": {
            "ran": report.ran,
            "of": report.total,
            **report.counts(),
            "first_broken_stage": diagnosis.first_broken_stage,
            "confidence": diagnosis.confidence,
            "not_judged": report.not_judged,
            "ruled_out": diagnosis.ruled_out,
            "acquitted": diagnosis.ruled_out,  # its name in schema 1
            "exit_code": report.exit_code(),
            "seconds": round(report.seconds, 3),
        },
    }
    values: dict[str, Any] = json_value(document)
    return values


def _result(result: Result) -> dict[str, Any]:
    return {**result.as_dict(), "url": page_url(result.check)}


def _measured(report: Report, name: str) -> dict[str, Any]:
    passes = report.passes.get(name)
    return {
        "name": name,
        "seconds": round(report.measured[name], 3),
        "forwards": passes.forwards if passes else 0,
        "backwards": passes.backwards if passes else 0,
        "optimizer_steps": passes.optimizer_steps if passes else 0,
        "peak_bytes": passes.peak_bytes if passes else None,
    }


def dumps(reports: Sequence[Report]) -> str:
    """Return the text of the JSON file: the object of one report, or the list of several."""
    documents = [as_dict(report) for report in reports]
    return encode(documents[0] if len(documents) == 1 else documents)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of what :func:`dumps` returns."""
    text = (resources.files(__package__) / "schema.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def encode(value: Any) -> str:
    """Return any value as JSON text that ends with a newline."""
    return json.dumps(json_value(value), indent=2, allow_nan=False) + "\n"


def json_value(value: Any) -> Any:
    """Return the value in JSON's own types.

    JSON has no NaN and no infinity, and a check that measured one must still be reported, so they
    become the strings ``nan``, ``inf`` and ``-inf``.  What JSON has no type for becomes its str.
    """
    match value:
        case None | bool():
            return value
        case str():
            return str(value)  # an enum's plain text: execnet takes nothing else
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            number = float(value)
            return number if math.isfinite(number) else str(number)
        case Mapping():
            return {str(key): json_value(item) for key, item in value.items()}
        case list() | tuple() | AbstractSet():
            items = sorted(value, key=str) if isinstance(value, AbstractSet) else value
            return [json_value(item) for item in items]
        case _:
            return str(value)
