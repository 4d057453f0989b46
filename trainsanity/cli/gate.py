"""Switch the gate on for a project that has failures: a baseline, and expected failures."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.trial import shape
from trainsanity.errors import UsageError
from trainsanity.report.words import UNWRITTEN, clean
from trainsanity.sources.config import table_file
from trainsanity.types import RAN, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

TABLE = "tool.trainsanity.expected_failures"

LONGEST = 160
"""Characters of a headline that a reason to be written quotes."""


class Baseline:
    """What an earlier run reported.

    Args:
        name: of its file.
        documents: the JSON report of each pipeline.
    """

    def __init__(self, name: str, documents: Sequence[Mapping[str, Any]]) -> None:
        self.path = str(Path(name).resolve())
        self._rows = {
            (document["pipeline"], row["name"]): row
            for document in documents
            for row in document["results"]
        }

    @classmethod
    def read(cls, name: str) -> Baseline:
        """Return the baseline in a file.

        Raises:
            UsageError: it is no JSON report of this program.
        """
        try:
            found = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--baseline {name}: it cannot be read ({error}); give a file that "
                "`trainsanity run --json FILE` wrote"
            ) from error
        documents = found if isinstance(found, list) else [found]
        try:
            baseline = cls(name, documents)
            for row in baseline._rows.values():
                row["status"], [finding["headline"] for finding in row["findings"]]
        except (TypeError, KeyError) as error:
            raise UsageError(
                f"--baseline {name}: that is no report in schema 2; give a file that "
                "`trainsanity run --json FILE` wrote"
            ) from error
        return baseline

    def applied(self, report: Report) -> Report:
        """Return the report with failures that the baseline has as accepted ones."""
        results = tuple(self._result(result, report) for result in report.results)
        known = {r.check.name for r in report.results if self._no_verdict_then_and_now(r)}
        return replace(report, results=results, known=frozenset(known))

    def _result(self, result: Result, report: Report) -> Result:
        counts = {Status.FAIL} | ({Status.WARNING} if report.policy.warnings_fail else set())
        row = self._rows.get((result.pipeline_id, result.check.name))
        if result.status not in counts or row is None:
            return result
        had = {shape(finding["headline"]) for finding in row["findings"]}
        told = [
            finding
            for finding in result.findings
            if finding.severity is Severity.FAILURE or Status.WARNING in counts
        ]
        if all(shape(finding.headline) in had for finding in told):
            return replace(
                result, status=Status.XFAIL, reason=f"known: {Path(self.path).name} has it"
            )
        return result

    def _no_verdict_then_and_now(self, result: Result) -> bool:
        row = self._rows.get((result.pipeline_id, result.check.name))
        no_verdict = result.status not in (*RAN, Status.ERROR)
        return no_verdict and row is not None and row["status"] == str(result.status)


class Expected:
    """The table of expected failures, to which a run's failures are added."""

    def __init__(self) -> None:
        # The pipeline's code may change the directory before the end.
        self._path = table_file()

    def write(self, entries: Mapping[str, Mapping[str, str]]) -> str:
        """Write the failures of today into pyproject.toml; return what was done, in words.

        The file is not written anew: lines are added to it.  Where they cannot be added so that
        everything else stays as it is, the table is returned to be added by hand.

        Args:
            entries: as :func:`entries_of` returns them.
        """
        number = sum(map(len, entries.values()))
        if not number:
            return "expected_failures: nothing failed, nothing was written\n"
        if self._path is not None and self._written(self._path, entries):
            return (
                f"expected_failures: {number} written to {clean(str(self._path))}, each with a "
                "reason to be written\n"
            )
        lines = "\n".join(line for key, found in entries.items() for line in _lines(key, found))
        where = self._path or "a pyproject.toml, which this project does not have"
        return f"expected_failures: add this to {clean(str(where))}:\n{clean(lines)}\n"

    @staticmethod
    def _written(path: Path, entries: Mapping[str, Mapping[str, str]]) -> bool:
        """Return whether the entries were added, and nothing else is changed by that."""
        try:
            text = path.read_bytes().decode("utf-8")
            before = tomllib.loads(text)
            after = text
            for key, found in entries.items():
                after = _added(after, key, found)
            wanted = before.setdefault("tool", {}).setdefault("trainsanity", {})
            wanted = wanted.setdefault("expected_failures", {})
            for key, found in entries.items():
                wanted.setdefault(key, {}).update(found)
            if tomllib.loads(after) != before:
                return False
            path.write_bytes(after.encode("utf-8"))
        except (OSError, ValueError, AttributeError):  # not TOML, not a table, not to be written
            return False
        return True


def entries_of(reports: Iterable[Report]) -> dict[str, dict[str, str]]:
    """Return check name to a reason to be written, by pipeline; only of those that fail."""
    found = ((_key(report), _entries(report)) for report in reports)
    return {key: entries for key, entries in found if entries}


def _key(report: Report) -> str:
    return report.command[0] if report.command else report.pipeline_id


def _entries(report: Report) -> dict[str, str]:
    """Return check name to a reason to be written, for what makes this run fail."""
    failing = {Status.FAIL} | ({Status.WARNING} if report.policy.warnings_fail else set())
    return {
        result.check.name: f"{UNWRITTEN}: {_short(result.findings[0].headline)}"
        for result in report.results
        if result.status in failing
    }


def _short(headline: str) -> str:
    line = clean(" ".join(headline.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rsplit(' ', 1)[0]} ..."


def _quoted(text: str) -> str:
    # A string of JSON is one of TOML, but for DEL, which `clean` has written out.
    return json.dumps(text, ensure_ascii=False)


def _header(key: str) -> str:
    return f"[{TABLE}.{_quoted(key)}]"


def _lines(key: str, found: Mapping[str, str]) -> list[str]:
    return [_header(key), *(f"{_quoted(name)} = {_quoted(why)}" for name, why in found.items())]


def _added(text: str, key: str, found: Mapping[str, str]) -> str:
    """Return the text with the entries below their table's header, or at the end with one."""
    newline = "\r\n" if "\r\n" in text else "\n"
    header, *entries = _lines(key, found)
    lines = text.split(newline)
    if header in lines:
        at = lines.index(header) + 1
        return newline.join([*lines[:at], *entries, *lines[at:]])
    gap = "" if not text or text.endswith(newline) else newline
    return f"{text}{gap}{newline}{newline.join([header, *entries])}{newline}"
