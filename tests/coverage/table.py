"""The coverage table: read, written, and held against the floors."""

from __future__ import annotations

import importlib.util
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.field.judging import forked

if TYPE_CHECKING:
    from .kinds import Kind

PATH = Path(__file__).with_name("table.json")
RAN = ("pass", "warning", "fail", "xfail", "xpass")
GOOD = ("pass", "warning", "skip", "abstain")
"""Statuses that a healthy pipeline may have."""


def possible(one: Kind) -> bool:
    """Return whether what a kind needs is installed."""
    return not one.needs or importlib.util.find_spec(one.needs) is not None


def load() -> None:
    """Import the checks and what they import, before processes are forked."""
    import transformers

    from trainsanity.engine.registry import registry

    registry().select()
    assert transformers.Trainer


def judged(one: Kind) -> dict[str, Any]:
    """Judge a kind's pipeline in a process of its own: status by check, and why there is none."""

    def judge() -> dict[str, Any]:
        import trainsanity
        from trainsanity.engine.registry import registry
        from trainsanity.engine.runner import run

        spec = trainsanity.PipelineSpec(one.id, one.make)
        report = spec.visit(lambda pipeline: run(pipeline, registry().select()))
        verdicts = {str(r.check.name): str(r.status) for r in report.results if r.status in RAN}
        why: dict[str, list[str]] = {}
        for result in report.results:
            if result.status not in RAN:
                why.setdefault(f"{result.status}: {result.reason}", []).append(result.check.name)
        words = {r.check.name: r.findings[0].headline for r in report.results if r.findings}
        return {"exit": int(report.exit_code()), "verdicts": verdicts, "why": why, "words": words}

    return forked(judge, 300)


def read() -> dict[str, Any]:
    """Return the table."""
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}


def first_catalogue() -> list[str]:
    """Return the checks of the first catalogue, which the floors count."""
    return list(read()["first_catalogue"])


def counted(found: dict[str, Any]) -> int:
    """Return how many checks of the first catalogue reached a verdict."""
    return len({*found.get("verdicts", ())} & {*first_catalogue()})


def line(one: Kind, found: dict[str, Any]) -> str:
    """Return the counts in words."""
    return (
        f"{one.id}: {counted(found)} of {len(first_catalogue())} checks of the first catalogue, "
        f"floor {one.floor}; {len(found.get('verdicts', ()))} verdicts in all"
    )


def problems(one: Kind, found: dict[str, Any]) -> list[str]:
    """Return what is wrong: below the floor, a failure, an error."""
    if "verdicts" not in found:
        return [f"  {one.id} was not judged: {found.get('errors')}"]
    told = [] if counted(found) >= one.floor else [f"  {one.id} is below its floor"]
    words = found["words"]
    told += [
        f"  {status} {name}: {words.get(name, '')}"
        for name, status in found["verdicts"].items()
        if status != "pass"
    ]
    told += [
        f"  {reason} ({', '.join(names)})"
        for reason, names in found["why"].items()
        if reason.partition(":")[0] not in GOOD
    ]
    return told


def unhealthy(found: dict[str, Any]) -> list[str]:
    """Return the failures and errors of a judged pipeline, and blocked checks."""
    red = [name for name, status in found["verdicts"].items() if status not in GOOD]
    return red + [reason for reason in found["why"] if reason.partition(":")[0] not in GOOD]


def write(name: str, found: dict[str, Any]) -> None:
    """Write one pipeline's row: verdicts by status, and the other checks by their reason."""
    whole = read()
    whole["versions"] = {
        package: metadata.version(package) for package in ("torch", "transformers", "trl")
    }
    by_status: dict[str, list[str]] = {}
    for check, status in found.get("verdicts", {}).items():
        by_status.setdefault(status, []).append(check)
    row = {
        "first_catalogue": counted(found),
        "all": len(found.get("verdicts", ())),
        "verdicts": {status: sorted(names) for status, names in sorted(by_status.items())},
        "without": {why: sorted(names) for why, names in sorted(found.get("why", {}).items())},
    }
    whole["kinds"] = dict(sorted({**whole.get("kinds", {}), name: row}.items()))
    PATH.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def same_versions() -> bool:
    """Return whether the table was written with the installed versions."""
    return all(
        metadata.version(package).partition("+")[0] == version.partition("+")[0]
        for package, version in read()["versions"].items()
    )
