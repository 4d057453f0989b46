"""What the faces of a report say in the same words: verdicts, values, names, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.report.json import json_value
from trainsanity.types import Check, Cost, Finding, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

VALUE_LENGTH = 200
"""Longest observed or expected value that is printed; the JSON report has the whole one."""


def verdict(report: Report, *, strict: bool = False) -> str:
    """The headline without the pipeline's name; never says more than what was judged."""
    of = f"{report.ran} of {report.total} checks ran"
    code = report.exit_code(strict=strict)
    failed = with_status(report.results, Status.FAIL)
    if failed:
        return f"not sane. First broken stage: {report.diagnosis.first_broken_stage}"
    if with_status(report.results, Status.XPASS):
        return "not as expected: what was accepted as a failure passes now"
    accepted = len(with_status(report.results, Status.XFAIL))
    passed = "and passed" if not accepted else f"and {report.ran - accepted} passed"
    tail = f", {accepted} failed as accepted" if accepted else ""
    if code:
        return f"incomplete: {of}" + (f" {passed}{tail}" if report.ran else "")
    but = ""
    if report.ran < report.total:
        but = " as far as judged"
    if accepted:
        but += " but for what is accepted"
    return f"sane{but}: {of} {passed}{tail}"


PASSES = {
    "forwards": "forwards",
    "backwards": "backwards",
    "optimizer steps": "optimizer_steps",
}


def passes(report: Report) -> str:
    """How often the model ran, and for which measurements; empty if it did not."""
    told = []
    for word, field in PASSES.items():
        counts = {name: getattr(seen, field) for name, seen in report.passes.items()}
        by_count = sorted(counts.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {count}" for name, count in by_count if count)
        if parts:
            told.append(f"{sum(counts.values())} {word} ({parts})")
    return "; ".join(told)


def coverage(report: Report) -> str:
    """How many checks ran of how many exist, and how they ended."""
    counts = report.counts()
    told = [
        f"{counts[status]} {words}"
        for status, words in (
            (Status.PASS, "passed"),
            (Status.FAIL, "failed"),
            (Status.XFAIL, "failed as accepted"),
            (Status.XPASS, "passed against expectation"),
        )
        if counts[status]
    ]
    text = f"{report.ran} of {report.total} checks ran"
    return text + (f": {', '.join(told)}." if told else ".")


def without_verdict(report: Report) -> str:
    """Which checks did not run, and why not; empty if all did."""
    groups = [
        f"{codes_of(r.check for r in some)} {word}"
        for status, word in (
            (Status.BLOCKED, "blocked"),
            (Status.SKIP, "skipped"),
            (Status.ABSTAIN, "abstained"),
            (Status.ERROR, "ended in an error"),
        )
        if (some := with_status(report.results, status))
    ]
    # Where some runs were asked for, the others were left out by somebody's choice.
    asked = any(result.check.cost is Cost.RUN for result in report.results)
    runs = [check for check in report.unasked if check.cost is Cost.RUN and not asked]
    if others := [check for check in report.unasked if check not in runs]:
        groups.append(f"{codes_of(others)} not selected")
    if runs:
        groups.append(
            f"{codes_of(runs)} left out by cost: select them by name, or set max-cost to RUN"
        )
    return f"Without a verdict: {'; '.join(groups)}." if groups else ""


def rerun(command: Sequence[str], code: str, *options: str) -> str | None:
    """The call that judges just this again; None for a pipeline that no call leads to.

    Args:
        command: the target and a script's own arguments, as ``Pipeline.command``.
        code: of the check.
        options: of trainsanity, besides.
    """
    if not command:
        return None
    target, *arguments = command
    own = ["--", *arguments] if arguments else []
    return shlex.join(["trainsanity", "run", target, "--select", code, *options, *own])


def accused(results: Iterable[Result]) -> bool:
    """Something is wrong, so that who is innocent is worth telling."""
    return any(
        result.status not in (Status.PASS, Status.SKIP, Status.ABSTAIN) for result in results
    )


def explained(results: Iterable[Result]) -> list[Result]:
    """Blocked with findings: measured, and they show the factor of an earlier failure.

    Those without findings could not be judged at all; their reason says after what they wait.
    """
    return [result for result in with_status(results, Status.BLOCKED) if result.findings]


def with_status(results: Iterable[Result], status: Status) -> list[Result]:
    """The results that ended so."""
    return [result for result in results if result.status is status]


def codes_of(checks: Iterable[Check]) -> str:
    """The codes as a list in a sentence; three and more in a row by the first and the last."""
    runs: list[list[str]] = []
    for code in (check.code for check in checks):
        if runs and _next(runs[-1][-1]) == code:
            runs[-1].append(code)
        else:
            runs.append([code])
    told: list[str] = []
    for run in runs:
        told += run if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _next(code: str) -> str:
    letters = code.rstrip("0123456789")
    digits = code.removeprefix(letters)
    return f"{letters}{int(digits) + 1:0{len(digits)}}"


def fields_of(finding: Finding, confidence: str = "") -> list[tuple[str, str]]:
    """What a finding says besides its message, each with its label.

    Args:
        finding: what is told.
        confidence: of the diagnosis, beside the finding that it is about.
    """
    factor = None if finding.factor is None else f"{finding.factor:.2f}"
    fields = [
        ("observed", None if finding.observed is None else value_text(finding.observed)),
        ("expected", None if finding.expected is None else value_text(finding.expected)),
        ("factor", factor),
        ("where", finding.where),
        ("cause", finding.cause),
        ("how sure", confidence or None),
        ("fix", finding.fix),
    ]
    return [(label, clean(text)) for label, text in fields if text is not None]


def confidence_in(finding: Finding, report: Report) -> str:
    """What the diagnosis says of the first finding's cause; empty for the others."""
    return report.diagnosis.confidence if finding is report.diagnosis.finding else ""


def observed(result: Result) -> str:
    """What was seen, whether or not that is wrong."""
    return result.message or " ".join(finding.headline for finding in result.findings)


def value_text(value: Any) -> str:
    """A measured value as people write it: six digits, no braces around a few named numbers."""
    match json_value(value):
        case bool() | str() as plain:
            return _short(str(plain))
        case float() as number:
            return f"{number:.6g}"
        case dict() as named:
            return _short(", ".join(f"{name} {value_text(item)}" for name, item in named.items()))
        case other:
            return _short(json.dumps(other, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 3] + "..."


def pairs(facts: Mapping[str, Any]) -> str:
    """Names and values in one line."""
    return ", ".join(
        f"{clean(str(name))} {f'{value:,}' if type(value) is int else clean(value_text(value))}"
        for name, value in facts.items()
    )


def clean(text: str) -> str:
    """Data may hold control characters; written out, they cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def row_text(result: Result) -> str:
    """What a list of all checks says beside the status: what was seen, or why nothing was."""
    return result.message if result.status is Status.PASS else result.reason
