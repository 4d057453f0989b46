"""The end of a run of pytest: what the results of each pipeline mean together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trainsanity.engine.report import Report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the session if the checks of a pipeline ran without a verdict that counts.

    Tests that a mark skips, as ``gpu`` does, are not called: that is the user's choice.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or reporter is None:
        return
    if any(_not_judged(report) for report in _reports(reporter, "call")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what the results of each pipeline mean together."""
    called = {report.pipeline_id: report for report in _reports(terminalreporter, "call")}
    for number, report in enumerate(_reports(terminalreporter)):
        if number == 0:
            terminalreporter.section("trainsanity")
        from trainsanity.pytest_plugin.results import summary

        for line in summary(report, verbose=terminalreporter.config.get_verbosity() > 0):
            terminalreporter.line(line)
        if sentence := _not_judged(called.get(report.pipeline_id)):
            terminalreporter.line(
                f"  {sentence[0].upper()}{sentence[1:]}, and that is no success: exit code 1."
            )


def _not_judged(report: Report | None) -> str:
    """Return what was not judged of a pipeline whose tests were called; empty if enough was."""
    if report is None:
        return ""
    from trainsanity.report.words import not_judged

    return not_judged(report) or ("" if report.ran else "nothing was judged")


def _reports(reporter: pytest.TerminalReporter, when: str | None = None) -> Iterator[Report]:
    """Yield a report for each pipeline that tests were about, in one phase if ``when`` names it."""
    by_test = {}
    warnings_fail = False
    for reports in reporter.stats.values():
        for report in reports:
            properties = getattr(report, "user_properties", None)
            if not properties or when not in (None, report.when):
                continue
            by_test[report.nodeid] = properties
            # By the option, the setting, or -W error: here a warning fails its test.
            warned = ("trainsanity.status", "warning") in map(tuple, properties)
            warnings_fail |= warned and report.failed and report.when == "call"
    if not by_test:
        return
    from trainsanity.engine.report import Policy
    from trainsanity.pytest_plugin.results import reports_of

    yield from reports_of(by_test.values(), Policy(warnings_as_errors=warnings_fail))
