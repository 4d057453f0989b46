"""Helpers for tests of checks: run one, and show that a fault is caught for its own reason only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import Runner, run
from trainsanity.types import Check, Cost, Result, Status

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def run_one(check: Check | str, pipeline: Pipeline) -> Result:
    """Judge one check, after those that it requires.

    Args:
        check: the check, or its name or code.
        pipeline: what is judged.

    Raises:
        UsageError: there is no such check.
    """
    found = registry().get(check) if isinstance(check, str) else check
    return Runner(pipeline).result(found)


def assert_kills(
    pipeline: Pipeline,
    names: Iterable[str],
    skips: Collection[str] | None = None,
    warns: Collection[str] = (),
) -> Report:
    """Run every check; exactly those of ``names`` must fail, all others pass, skip or be blocked.

    Checks that train for a while (``Cost.RUN``) are run only if ``names`` or ``warns`` has one of
    them.  A check that abstains or ends in an error has shown nothing, and counts as wrong.
    With no names the pipeline is a healthy control: nothing may be blocked either.

    Args:
        pipeline: what is judged.
        names: the checks that must fail.
        skips: the checks that may skip; by default any that does not apply.
        warns: the checks that must warn.

    Returns:
        The report.

    Raises:
        UsageError: a name is no check's.
        AssertionError: another set failed; the text shows the difference.
    """
    wanted = {registry().get(name).name: Status.FAIL for name in names}
    wanted |= {registry().get(name).name: Status.WARNING for name in warns}
    runs = any(registry().get(name).cost is Cost.RUN for name in wanted)
    report = run(pipeline, registry().select(max_cost=Cost.RUN if runs else None))
    spared = {registry().get(name).name for name in skips} if skips is not None else None
    wrong = [
        _complaint(r, wanted)
        for r in report.results
        if not _as_wanted(r, wanted)
        and not (
            r.status is Status.SKIP
            and r.check.name not in wanted
            and (spared is None or r.check.name in spared)
        )
    ]
    if wrong:
        listed = ", ".join(sorted(wanted)) or "no check"
        lines = "\n".join(f"  {line}" for line in wrong)
        raise AssertionError(f"{report.pipeline_id} is to be caught by {listed}, but\n{lines}")
    return report


def _as_wanted(result: Result, wanted: Mapping[str, Status]) -> bool:
    if result.check.name in wanted:
        return result.status is wanted[result.check.name]
    return result.status is Status.PASS or (bool(wanted) and result.status is Status.BLOCKED)


def _complaint(result: Result, wanted: Mapping[str, Status]) -> str:
    verbs = {Status.FAIL: "fail", Status.WARNING: "warn", None: "pass or be blocked"}
    expected = verbs[wanted.get(result.check.name)]
    found = " ".join(finding.headline for finding in result.findings) or result.reason
    return (
        f"{result.check.code} {result.check.name} should {expected}: {result.status}: "
        f"{found or result.message}"
    )
