"""Keep rows of the user's data out of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainsanity.proofs import Proof
from trainsanity.types import Finding, Result

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

_QUOTED = re.compile(r"(?<!\w)([\"'`])(?:\\.|(?!\1).)*?\1(?!\w)", re.DOTALL)
"""Data is quoted where checks tell it, as by ``repr``; so are names of columns, which go too."""

_LISTED = re.compile(r"\[[^\[\]]*(?:,[^\[\]]*){2,}\]")
"""Three values and more in brackets: token ids, which the tokenizer turns into text again."""

_OPEN = re.compile(r"(?<!\w)[\"'](?=\w)[^\"']*$", re.DOTALL)
"""A quotation that was cut before its end."""

WITHHELD = "withheld"


def without_rows(report: Report) -> Report:
    """Return the report without what may come from rows: quotations, lists, tracebacks.

    Numbers, names of checks, and what is computed stay.
    """
    environment = dict(report.environment)
    if notes := environment.get("notes"):
        environment["notes"] = [_sentence(str(note)) for note in notes]
    return replace(
        report,
        results=tuple(map(_result, report.results)),
        environment=environment,
        library_warnings=tuple(
            replace(one, text=_sentence(one.text)) for one in report.library_warnings
        ),
        unjudged=_sentence(report.unjudged),
    )


def holds_rows(report: Report) -> bool:
    """Return whether the report has something that may come from rows."""
    bare = without_rows(report)
    pairs = zip(report.results, bare.results, strict=True)
    return any(one != other or one.debug for one, other in pairs)


def _result(result: Result) -> Result:
    return replace(
        result,
        findings=tuple(map(_finding, result.findings)),
        observed=_value(result.observed),
        expected=_value(result.expected),
        message=_sentence(result.message),
        reason=_sentence(result.reason),
        debug="",
    )


def _finding(finding: Finding) -> Finding:
    return replace(
        finding,
        headline=_sentence(finding.headline),
        observed=_value(finding.observed),
        expected=_value(finding.expected),
        where=finding.where and _sentence(finding.where),
        cause=finding.cause and _sentence(finding.cause),
        fix=finding.fix and _sentence(finding.fix),
        tested=finding.tested and _sentence(finding.tested),
        repairs=(),
        proof=finding.proof and _proof(finding.proof),
    )


def _proof(proof: Proof) -> Proof:
    return replace(
        proof,
        sentence=_sentence(proof.sentence),
        repair=_sentence(proof.repair),
        before=_value(proof.before),
        after=_value(proof.after),
    )


def _sentence(text: str) -> str:
    return _OPEN.sub("'…'", _LISTED.sub("[…]", _QUOTED.sub("'…'", text)))


def _value(value: Any) -> Any:
    """Return numbers, also by name; what is text or a list is withheld."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _value(item) for name, item in value.items()}
    return WITHHELD
