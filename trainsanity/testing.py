"""For people who write checks: run one, and show that a fault is caught for its own reason only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import Runner, run
from trainsanity.types import Check, Cost, Result, Status

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

RED = frozenset({Status.FAIL, Status.ERROR})
"""What :func:`assert_kills` counts as killed or broken."""


def run_one(check: Check | str, pipeline: Pipeline) -> Result:
    """Judge one check, and before it what it requires.

    Args:
        check: the check, or its name or code.
        pipeline: what is judged.

    Raises:
        UsageError: there is no such check.
    """
    found = registry().get(check) if isinstance(check, str) else check
    return Runner(pipeline).result(found)


def assert_kills(pipeline: Pipeline, names: Iterable[str], skips: Collection[str] = ()) -> Report:
    """Run every check; exactly those of ``names`` must fail and all others pass or be blocked.

    Checks that train for a while (``Cost.RUN``) are run only if ``names`` has one of them.  A check
    that skips, abstains or ends in an error has not shown anything, and counts as wrong, but for
    those that hold several processes against each other, where there is one.
    With no names the pipeline is a healthy control: nothing may be blocked either.

    Args:
        pipeline: what is judged.
        names: the checks that must fail.
        skips: checks that this pipeline gives no occasion to: they may skip.

    Returns:
        The report, for a closer look.

    Raises:
        UsageError: a name is no check's.
        AssertionError: another set failed; the text shows the difference.
    """
    wanted = {registry().get(name).name for name in names}
    runs = any(registry().get(name).cost is Cost.RUN for name in wanted)
    report = run(pipeline, registry().select(max_cost=Cost.RUN if runs else None))
    spared = {registry().get(name).name for name in skips}
    if pipeline.other_processes is None:
        spared |= {c.name for c in registry().all() if "other_processes" in c.needs}
    wrong = [
        _complaint(r, wanted)
        for r in report.results
        if not _as_wanted(r, wanted)
        and not (r.status is Status.SKIP and r.check.name in spared - wanted)
    ]
    if wrong:
        listed = ", ".join(sorted(wanted)) or "nothing"
        lines = "\n".join(f"  {line}" for line in wrong)
        raise AssertionError(f"{report.pipeline_id} is to kill {listed}, but\n{lines}")
    return report


def _as_wanted(result: Result, wanted: Collection[str]) -> bool:
    if result.check.name in wanted:
        return result.status is Status.FAIL
    return result.status is Status.PASS or (bool(wanted) and result.status is Status.BLOCKED)


def _complaint(result: Result, wanted: Collection[str]) -> str:
    expected = "fail" if result.check.name in wanted else "pass or be blocked"
    said = " ".join(finding.headline for finding in result.findings) or result.reason
    return (
        f"{result.check.code} {result.check.name} should {expected}: {result.status}: "
        f"{said or result.message}"
    )
