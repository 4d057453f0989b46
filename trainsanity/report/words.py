"""Wording that all reporters share: headlines, values, names, commands."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.library_warnings import CUT
from trainsanity.report.json import json_value
from trainsanity.types import NOTHING, RAN, Check, Cost, Finding, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.isolation.library_warnings import LibraryWarning

VALUE_LENGTH = 200
"""Longest observed or expected value that is printed; the JSON report has the whole one."""

REASON_LENGTH = 160
"""Longest reason that a headline quotes; the list of checks has the whole one."""


UNWRITTEN = "reason to be written"
"""Beginning of the reasons that ``--write-expected`` leaves to be written."""


def acceptance(result: Result) -> str:
    """Return in words why a failure is accepted; a reason that is not written says nothing."""
    if result.reason.startswith(UNWRITTEN):
        return "accepted; its reason is to be written"
    return f"accepted: {clean(result.reason)}"


def verdict(report: Report) -> str:
    """Return the headline without the pipeline's name; it claims no more than was judged."""
    if report.unjudged:
        return f"not judged: {report.unjudged}"
    if with_status(report.results, Status.FAIL):
        return f"not sane. First broken stage: {report.diagnosis.first_broken_stage}"
    if with_status(report.results, Status.XPASS):
        return "not as expected: what was accepted as a failure passes now"
    warned = len(with_status(report.results, Status.WARNING))
    accepted = len(with_status(report.results, Status.XFAIL))
    ran = f"{report.ran} of {report.total} checks ran"
    if accepted or warned:
        ran += f" and {report.ran - accepted - warned} passed"
    elif report.ran:
        ran += " and passed"
    ran += f", {accepted} failed as accepted" if accepted else ""
    warnings = counted(warned, "warning") if warned else ""
    if warned and report.policy.warnings_fail:
        return f"not sane: {warnings}, and warnings count as failures: {ran}"
    warnings = f", {warnings}" if warned else ""
    if report.not_judged:
        return f"incomplete{warnings}: {_not_judged_because(report)}"
    if not report.good:
        return f"incomplete{warnings}: {ran}"
    but = " as far as judged" if report.ran < report.total else ""
    but += " but for what is accepted" if accepted else ""
    return f"sane{but}{warnings}: {ran}"


def not_judged(report: Report) -> str:
    """Return what was not held against a computed value; empty if something was.

    Other checks may have looked at loss and gradient all the same: that they are finite, say.
    """
    kinds = report.not_judged
    if len(kinds) > 1:
        return f"neither {' nor '.join(kinds)} was compared with a computed value"
    return f"the {kinds[0]} was not compared with a computed value" if kinds else ""


def _not_judged_because(report: Report) -> str:
    """Return what was not judged, with the reason that most of the checks give."""
    reasons = Counter(
        _why(result, report.results) for result in report.judging if result.status not in RAN
    )
    # What the pipeline is not made of is known; what else is missing tells more.
    telling = [text for text in reasons if not text.startswith(NOTHING)] or list(reasons)
    reason = max(telling, key=lambda text: reasons[text])
    if len(reason) > REASON_LENGTH:
        reason = f"{reason[:REASON_LENGTH]}..."
    more = f"; {counted(len(reasons) - 1, 'other reason')}" if len(reasons) > 1 else ""
    return f"{not_judged(report)}: {reason}{more}"


def _why(result: Result, every: Iterable[Result]) -> str:
    """Return a result's reason; of one that waits, what stands at the beginning of its queue."""
    first = root_of(result, {one.check.name: one for one in every})
    if first is result:
        return " ".join(result.reason.split())
    return f"{first.check.code} {first.check.name} comes first"


def root_of(result: Result, by_name: Mapping[str, Result]) -> Result:
    """Return the result that a blocked one waits for, however many stand between."""
    seen = {result.check.name}
    while (name := result.blocked_by) in by_name and name not in seen:
        seen.add(str(name))
        result = by_name[str(name)]
    return result


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


PASSES = {
    "forwards": "forwards",
    "backwards": "backwards",
    "optimizer steps": "optimizer_steps",
}


def objective(report: Report) -> str:
    """Return what is trained for, how that was recognised and confirmed; empty if not known."""
    return "; ".join(filter(None, report.recognition.values()))


def passes(report: Report) -> str:
    """Return how often the model ran, and for which measurements; empty if it did not."""
    groups = []
    for word, field in PASSES.items():
        counts = {name: getattr(ran, field) for name, ran in report.passes.items()}
        by_count = sorted(counts.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {count}" for name, count in by_count if count)
        if parts:
            groups.append(f"{sum(counts.values())} {word} ({parts})")
    return "; ".join(groups)


def coverage(report: Report) -> str:
    """Return how many checks ran of how many exist, and how they ended."""
    if report.unjudged:
        return ""
    counts = report.counts()
    parts = [
        f"{counts[status]} {words}"
        for status, words in (
            (Status.PASS, "passed"),
            (Status.FAIL, "failed"),
            (Status.XFAIL, "failed as accepted"),
            (Status.XPASS, "passed against expectation"),
        )
        if counts[status]
    ]
    if warned := counts[Status.WARNING]:
        parts.append(counted(warned, "warning"))
    text = f"{report.ran} of {report.total} checks ran"
    return text + (f": {', '.join(parts)}." if parts else ".")


def left_out(report: Report, *, waiting: bool = False, option: str = "") -> str:
    """Return what was not judged and why, by number, in one sentence; empty if all was.

    Args:
        report: what is summed up.
        waiting: with the checks that are blocked and those that ended in an error.
        option: what runs the long ones, too; by default the command line's, or Python's argument.
    """
    counts = Counter(result.status for result in report.results)
    runs_selected = any(result.check.cost is Cost.RUN for result in report.results)
    # Where some runs were selected, the others were left out by choice.
    runs = [c for c in report.unasked if c.cost is Cost.RUN and not runs_selected]
    option = option or ("--max-cost run" if report.command else 'max_cost="run"')
    one, several = "does not apply", "do not apply"
    parts = [
        (counts[Status.BLOCKED] if waiting else 0, "blocked by another check"),
        (counts[Status.ERROR] if waiting else 0, "ended in an error"),
        (number := counts[Status.SKIP], f"{one if number == 1 else several} to this pipeline"),
        (counts[Status.ABSTAIN], "could not tell right from wrong here"),
        (number := len(runs), f"long {'one' if number == 1 else 'ones'} not run: {option}"),
        (len(report.unasked) - len(runs), "not selected"),
    ]
    told = ", ".join(f"{number} {words}" for number, words in parts if number)
    return f"Not judged: {told}." if told else ""


def without_verdict(report: Report) -> str:
    """Return which checks did not run, and why not; empty if all did."""
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
    # Where some runs were selected, the others were left out by choice.
    runs_selected = any(result.check.cost is Cost.RUN for result in report.results)
    runs = [check for check in report.unasked if check.cost is Cost.RUN and not runs_selected]
    if others := [check for check in report.unasked if check not in runs]:
        groups.append(f"{codes_of(others)} not selected")
    if runs:
        groups.append(
            f"{codes_of(runs)} left out by cost: select them by name, or set max-cost to RUN"
        )
    return f"Without a verdict: {'; '.join(groups)}." if groups else ""


def rerun(command: Sequence[str], code: str, *options: str) -> str | None:
    """Return the call that judges one check again; None for a pipeline that no call leads to.

    Args:
        command: the target and a script's own arguments, or ``--`` and a command, as
            ``Pipeline.command``.
        code: the check's code.
        options: further options of ``trainsanity run``.
    """
    if not command:
        return None
    if command[0] == "--":
        return shlex.join(["trainsanity", "run", "--select", code, *options, *command])
    target, *arguments = command
    own = ["--", *arguments] if arguments else []
    return shlex.join(["trainsanity", "run", target, "--select", code, *options, *own])


def anything_wrong(results: Iterable[Result]) -> bool:
    """Return whether a suspect that is ruled out is worth a line: a warning accuses none."""
    harmless = (Status.PASS, Status.WARNING, Status.SKIP, Status.ABSTAIN)
    return any(result.status not in harmless for result in results)


def explained(results: Iterable[Result]) -> list[Result]:
    """Return the blocked results that have findings: they show the factor of an earlier failure.

    Those without findings could not be judged at all; their reason names what comes first.
    """
    return [result for result in with_status(results, Status.BLOCKED) if result.findings]


def with_status(results: Iterable[Result], status: Status) -> list[Result]:
    """Return the results that ended with this status."""
    return [result for result in results if result.status is status]


def codes_of(checks: Iterable[Check]) -> str:
    """Return the codes as a list in a sentence; three and more in a row by the first and last."""
    runs: list[list[str]] = []
    for code in (check.code for check in checks):
        if runs and _next(runs[-1][-1]) == code:
            runs[-1].append(code)
        else:
            runs.append([code])
    parts: list[str] = []
    for run in runs:
        parts += run if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _next(code: str) -> str:
    letters = code.rstrip("0123456789")
    digits = code.removeprefix(letters)
    return f"{letters}{int(digits) + 1:0{len(digits)}}"


def headline(finding: Finding, result: Result) -> str:
    """Return a finding's headline; a warning beside a failure of its check is named as one."""
    failed = result.findings[0].severity is Severity.FAILURE
    beside = failed and finding.severity is Severity.WARNING
    return f"warning: {finding.headline}" if beside else finding.headline


def headlines(result: Result) -> str:
    """Return all that a check found, in one line."""
    return " ".join(headline(finding, result) for finding in result.findings)


def fields_of(finding: Finding, confidence: str = "") -> list[tuple[str, str]]:
    """Return what a finding has besides its headline, each with its label.

    Args:
        finding: what is reported.
        confidence: how sure its cause is, where the diagnosis is about this finding.
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
        ("proof", proof(finding)),
    ]
    return [(label, clean(text)) for label, text in fields if text is not None]


def proof(finding: Finding) -> str | None:
    """Return what was seen with the finding's repair; None if none was asked for."""
    seen = finding.proof
    return None if seen is None else f"{seen.status}: {seen.sentence}"


def confidence_in(finding: Finding, report: Report) -> str:
    """Return how sure the first finding's cause is; empty for the others."""
    return report.diagnosis.confidence if finding is report.diagnosis.finding else ""


WARNED = 5
"""Warnings of libraries that a report shows; all of them stand in the JSON report."""


def library_warnings(report: Report) -> list[tuple[str, str]]:
    """Return what the libraries warned of, shortly; nothing that is about old names alone."""
    told = [one for one in report.library_warnings if one.spoken]
    rows = [(one.library, clean(_short(said(one)))) for one in told[:WARNED]]
    if len(told) > WARNED:
        rows.append(("", f"{len(told) - WARNED} more in the JSON report"))
    return rows


LOADED = re.compile(r"LOAD REPORT\S* from: (\S+)")
RULE = re.compile(r"[-+]{4,}")
LEFT_OVER = re.compile(r"([^|]+?) +\| (MISSING|UNEXPECTED|MISMATCH)")


def said(one: LibraryWarning) -> str:
    """Return what a library warned of; of transformers' table of a load, the names."""
    if not (loaded := LOADED.search(one.text)):
        return f"warned: {one.text}"
    named: dict[str, list[str]] = {}
    for name, status in LEFT_OVER.findall(RULE.split(one.text[loaded.end() :])[-1]):
        named.setdefault(status.lower(), []).append(name.strip())
    # What the checkpoint does not have was drawn at random; its order is a set's.
    parts = "; ".join(f"{status} {', '.join(sorted(n))}" for status, n in sorted(named.items()))
    if parts and one.text.endswith(CUT):
        parts += "; and more"
    return f"loaded {loaded[1]}: {parts or 'see its report on stderr'}"


def value_text(value: Any) -> str:
    """Return a measured value as people write it: six digits, no braces around named numbers."""
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
    """Return names and values in one line."""
    return ", ".join(
        f"{clean(str(name))} {f'{value:,}' if type(value) is int else clean(value_text(value))}"
        for name, value in facts.items()
    )


def clean(text: str) -> str:
    """Write control characters out, so that data cannot steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def row_text(result: Result) -> str:
    """Return what the list of all checks has beside a status: what was measured, or a reason."""
    return result.message if result.status is Status.PASS else result.reason
