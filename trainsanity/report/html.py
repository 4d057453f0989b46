"""The report as one HTML file that needs nothing else: no network, no script, no second file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trainsanity import __version__
from trainsanity.errors import UsageError
from trainsanity.report.figures import draw
from trainsanity.report.pictures import Picture
from trainsanity.report.words import (
    accused,
    clean,
    codes_of,
    confidence_in,
    coverage,
    explained,
    fields_of,
    observed,
    passes,
    rerun,
    row_text,
    value_text,
    verdict,
    with_status,
    without_verdict,
)
from trainsanity.types import STAGES, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

WORDS = {
    Status.PASS: ("✓", "passed"),
    Status.FAIL: ("✗", "failed"),
    Status.XFAIL: ("!", "failed as accepted"),
    Status.XPASS: ("✗", "passed against expectation"),
    Status.SKIP: ("○", "skipped"),
    Status.BLOCKED: ("○", "blocked"),
    Status.ABSTAIN: ("○", "abstained"),
    Status.ERROR: ("✗", "ended in an error"),
}
"""A sign and words for each status; the colour only repeats them."""

_WORST = (
    Status.FAIL,
    Status.XPASS,
    Status.ERROR,
    Status.XFAIL,
    Status.BLOCKED,
    Status.ABSTAIN,
    Status.SKIP,
    Status.PASS,
)
"""What a stage is called by, if its checks ended differently."""


def _cleaned(value: Any) -> Any:
    """What the template writes; markup is nobody's but its own."""
    text = isinstance(value, str) and not hasattr(value, "__html__")
    return clean(value) if text else value


def require_extra() -> None:
    """Find out early whether the page can be made.

    Raises:
        UsageError: the optional extra is not installed.
    """
    missing = [name for name in ("jinja2", "matplotlib") if not _there(name)]
    if missing:
        raise UsageError(f"--html needs {' and '.join(missing)}: pip install 'trainsanity[html]'")


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is forbidden to import
        return False


def render(
    reports: Sequence[tuple[Report, Sequence[Picture]]],
    *,
    strict: bool = False,
    debug: bool = False,
) -> str:
    """The page.

    Args:
        reports: of each pipeline, with its pictures.
        strict: judge as ``--strict`` does.
        debug: with the tracebacks of checks that ended in an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [
        _View(f"p{number}-", report, pictures, debug=debug).as_dict(strict=strict)
        for number, (report, pictures) in enumerate(reports, 1)
    ]
    return environment.get_template("report.html").render(reports=views, version=__version__)


class _View:
    """What the template is told of one report: plain values, which it cleans and escapes."""

    def __init__(
        self, prefix: str, report: Report, pictures: Sequence[Picture], *, debug: bool
    ) -> None:
        self.prefix, self.report, self.pictures, self.debug = prefix, report, pictures, debug
        self.results = sorted(report.results, key=lambda r: r.check.order)
        self.accused = accused(self.results)
        self.ruled_out = report.diagnosis.ruled_out if self.accused else {}

    def as_dict(self, *, strict: bool) -> dict[str, Any]:
        report, diagnosis = self.report, self.report.diagnosis
        environment = dict(report.environment)
        notes = environment.pop("notes", None) or ()
        where = {**environment, **report.facts, "seconds": round(report.seconds, 1)}
        if ran := passes(report):
            where["passes"] = ran
        shown = map(self.stage, STAGES)
        stages = _paired([s for s in shown if s["results"] or s["passed"] or s["pictures"]])
        return {
            "prefix": self.prefix,
            "name": report.pipeline_id,
            "verdict": verdict(report, strict=strict),
            "good": report.exit_code(strict=strict) == 0,
            "coverage": " ".join(filter(None, (coverage(report), without_verdict(report)))),
            "stages": stages,
            "broken": diagnosis.first_broken_stage,
            "first": diagnosis.result and self.result(diagnosis.result),
            "also": [
                self.result(r)
                for r in self.results
                if r.status is Status.FAIL and r is not diagnosis.result
            ],
            "explained": [(self.result(r), observed(r)) for r in explained(self.results)],
            "accused": self.accused,
            "accepted": [self.result(r) for r in with_status(self.results, Status.XFAIL)],
            "unexpected": [self.result(r) for r in with_status(self.results, Status.XPASS)],
            "acquitted": self.ruled_out,
            "notes": notes,
            "where": [(name.replace("_", " "), _value(value)) for name, value in where.items()],
        }

    def stage(self, stage: str) -> dict[str, Any]:
        results = [result for result in self.results if result.check.stage == stage]
        passed = with_status(results, Status.PASS)
        statuses = {result.status for result in results}
        worst = next((status for status in _WORST if status in statuses), None)
        sign, words = WORDS[worst] if worst else ("○", "not asked for")
        if worst in (Status.SKIP, Status.ABSTAIN) and passed:
            # What is not for this pipeline takes nothing from what is.
            unsaid = f"{len(with_status(results, worst))} {words}"
            worst, (sign, words) = Status.PASS, WORDS[Status.PASS]
            words = f"{words}, {unsaid}"
        return {
            "name": stage,
            "status": str(worst or "none"),
            "sign": sign,
            "words": words,
            "results": [self.result(r) for r in results if r.status is not Status.PASS],
            "passed": [self.result(result) for result in passed],
            "passed_codes": codes_of(r.check for r in passed) if passed else "",
            "pictures": [self.picture(p) for p in self.pictures if p.stage == stage],
        }

    def picture(self, picture: Picture) -> dict[str, Any]:
        from markupsafe import Markup

        name = f"{self.prefix}{picture.name}"
        try:
            svg = draw(picture, f"{name}-") or ""
        except Exception as error:
            # What cannot be drawn, an infinite loss for one, must not cost the page.
            svg, reason = "", f"it cannot be drawn ({type(error).__name__}: {error})"
            picture = replace(picture, reason=reason)
        # All text of the drawing went through an XML writer.
        return {"picture": picture, "id": name, "svg": Markup(svg)}

    def result(self, result: Result) -> dict[str, Any]:
        sign, words = WORDS[result.status]
        told = result.status in (Status.FAIL, Status.XPASS, Status.ERROR)
        above = with_status(self.results, Status.XPASS) + with_status(self.results, Status.FAIL)
        seen = [
            (label, value_text(value))
            for label, value in (("observed", result.observed), ("expected", result.expected))
            if value is not None and not result.findings
        ]
        return {
            "code": result.check.code,
            "name": result.check.name,
            "title": result.check.title.replace("``", ""),
            "status": str(result.status),
            "sign": sign,
            "words": words,
            "row": "" if told or result.check.rules_out in self.ruled_out else row_text(result),
            "message": result.message,
            "reason": result.reason,
            "findings": [
                (f.headline, fields_of(f, confidence_in(f, self.report))) for f in result.findings
            ],
            "seen": seen,
            "rerun": rerun(self.report.command, result.check.code) if told else None,
            "debug": result.debug if self.debug else "",
            "seconds": f"{result.seconds:.1f} s",
            # What the top of the page has told in full stays shut below.
            "open": told and result not in above,
            "above": told and result in above,
        }


def _paired(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the window has two columns, neighbours alike stand abreast, the others across both."""
    at = 0
    while at < len(stages):
        pair = stages[at : at + 2]
        abreast = [len(stage["pictures"]) for stage in pair] in ([0, 0], [1, 1])
        for stage in pair[: 1 + abreast]:
            stage["wide"] = not abreast
        at += 1 + abreast
    return stages


def _value(value: Any) -> str:
    return f"{value:,}" if type(value) is int else value_text(value)
