"""The report as one HTML file that needs nothing else: no network, no script, no second file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from trainsanity import __version__
from trainsanity.errors import UsageError
from trainsanity.report.figures import draw
from trainsanity.report.links import page_url
from trainsanity.report.pictures import Picture
from trainsanity.report.screen import total
from trainsanity.report.words import (
    anything_wrong,
    clean,
    codes_of,
    confidence_in,
    coverage,
    explained,
    fields_of,
    headline,
    headlines,
    left_out,
    library_warnings,
    objective,
    pairs,
    passes,
    rerun,
    row_text,
    value_text,
    verdict,
    with_status,
)
from trainsanity.types import STAGES, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

WORDS = {
    Status.PASS: ("✓", "passed"),
    Status.WARNING: ("⚠", "warning"),
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
    Status.WARNING,
    Status.XFAIL,
    Status.BLOCKED,
    Status.ABSTAIN,
    Status.SKIP,
    Status.PASS,
)
"""The first of these that a stage has is the status of the stage."""


def _cleaned(value: Any) -> Any:
    """Clean what the template writes, but for markup of its own."""
    text = isinstance(value, str) and not hasattr(value, "__html__")
    return clean(value) if text else value


def require_extra() -> None:
    """Check early whether the page can be made.

    Raises:
        UsageError: the optional extra is not installed.
    """
    missing = [name for name in ("jinja2", "matplotlib") if not _installed(name)]
    if missing:
        raise UsageError(f"--html needs {' and '.join(missing)}: pip install 'trainsanity[html]'")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is forbidden to import
        return False


def render(reports: Sequence[tuple[Report, Sequence[Picture]]], *, debug: bool = False) -> str:
    """Return the page.

    Args:
        reports: the report of each pipeline, with its pictures.
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
        _View(f"p{number}-", report, pictures, debug=debug).as_dict()
        for number, (report, pictures) in enumerate(reports, 1)
    ]
    summary = total([report for report, _ in reports]) if len(views) > 1 else ""
    page = environment.get_template("report.html")
    return page.render(reports=views, total=summary, version=__version__)


class _View:
    """The values of one report for the template, which cleans and escapes them."""

    def __init__(
        self, prefix: str, report: Report, pictures: Sequence[Picture], *, debug: bool
    ) -> None:
        self.prefix, self.report, self.pictures, self.debug = prefix, report, pictures, debug
        self.results = sorted(report.results, key=lambda r: r.check.order)
        self.wrong = anything_wrong(self.results)
        self.ruled_out = report.diagnosis.ruled_out if self.wrong else {}

    def as_dict(self) -> dict[str, Any]:
        """Return what ``report.html`` writes of the report."""
        report, diagnosis = self.report, self.report.diagnosis
        environment = dict(report.environment)
        notes = environment.pop("notes", None) or ()
        settings = environment.pop("settings", None) or {}
        where = {
            **environment,
            **{name: pairs(found) for name, found in settings.items()},
            **report.facts,
            "seconds": round(report.seconds, 1),
        }
        if known := objective(report):
            where["objective"] = known
        if ran := passes(report):
            where["passes"] = ran
        shown = map(self.stage, STAGES)
        stages = _paired([s for s in shown if s["results"] or s["passed"] or s["pictures"]])
        return {
            "prefix": self.prefix,
            "name": report.pipeline_id,
            "verdict": verdict(report),
            "good": report.good,
            "coverage": " ".join(filter(None, (coverage(report), left_out(report, waiting=True)))),
            "stages": stages,
            "broken": diagnosis.first_broken_stage,
            "first": diagnosis.result and self.result(diagnosis.result),
            "also": [
                self.result(r)
                for r in self.results
                if r.status is Status.FAIL and r is not diagnosis.result
            ],
            "explained": [(self.result(r), headlines(r)) for r in explained(self.results)],
            "warnings": [self.result(r) for r in with_status(self.results, Status.WARNING)],
            "warnings_fail": report.policy.warnings_fail,
            "wrong": self.wrong,
            "accepted": [self.result(r) for r in with_status(self.results, Status.XFAIL)],
            "unexpected": [self.result(r) for r in with_status(self.results, Status.XPASS)],
            "ruled_out": self.ruled_out,
            "notes": notes,
            "library_warnings": library_warnings(report),
            "where": [(name.replace("_", " "), _value(value)) for name, value in where.items()],
        }

    def stage(self, stage: str) -> dict[str, Any]:
        """Return the results and pictures of one stage."""
        results = [result for result in self.results if result.check.stage == stage]
        passed = with_status(results, Status.PASS)
        statuses = {result.status for result in results}
        worst = next((status for status in _WORST if status in statuses), None)
        sign, words = WORDS[worst] if worst else ("○", "not selected")
        if worst in (Status.SKIP, Status.ABSTAIN) and passed:
            # Checks that do not apply to this pipeline take nothing from those that do.
            without = f"{len(with_status(results, worst))} {words}"
            worst, (sign, words) = Status.PASS, WORDS[Status.PASS]
            words = f"{words}, {without}"
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
        """Return a picture with its drawing, or with the reason why there is none."""
        from markupsafe import Markup

        name = f"{self.prefix}{picture.name}"
        try:
            svg = draw(picture, f"{name}-") or ""
        except Exception as error:
            # A picture that cannot be drawn, of an infinite loss for one, must not cost the page.
            svg, reason = "", f"it cannot be drawn ({type(error).__name__}: {error})"
            picture = replace(picture, reason=reason)
        # All text of the drawing went through an XML writer.
        return {"picture": picture, "id": name, "svg": Markup(svg)}

    def result(self, result: Result) -> dict[str, Any]:
        """Return one result; ``row`` is what its line has while it is shut."""
        sign, words = WORDS[result.status]
        in_full = result.status in (Status.FAIL, Status.WARNING, Status.XPASS, Status.ERROR)
        above = result.status in (Status.FAIL, Status.WARNING, Status.XPASS)
        numbers = [
            (label, value_text(value))
            for label, value in (("observed", result.observed), ("expected", result.expected))
            if value is not None and not result.findings
        ]
        return {
            "code": result.check.code,
            "name": result.check.name,
            "title": result.check.title.replace("``", ""),
            "url": page_url(result.check),
            "status": str(result.status),
            "sign": sign,
            "words": words,
            "row": "" if in_full or result.check.rules_out in self.ruled_out else row_text(result),
            "message": result.message,
            "reason": result.reason,
            "findings": [
                (headline(f, result), fields_of(f, confidence_in(f, self.report)))
                for f in result.findings
            ],
            "numbers": numbers,
            "rerun": rerun(self.report.command, result.check.code) if in_full else None,
            "debug": result.debug if self.debug else "",
            "seconds": f"{result.seconds:.1f} s",
            # What stands in full at the top of the page stays shut below.
            "open": in_full and not above,
            "above": above,
        }


def _paired(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set neighbours that are alike side by side in a wide window, and the others across it."""
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
