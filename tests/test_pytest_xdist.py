"""The plugin under pytest-xdist: one build a pipeline, and one summary."""

from __future__ import annotations

import pytest
import torch  # noqa: F401 - see tests/plugin_project.py

import trainsanity.pytest_plugin.results  # noqa: F401 - see tests/plugin_project.py
from tests.plugin_project import SANITY, built
from trainsanity.pytest_plugin.distribution import scope_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("t.py::test_sanity[a-b:c -- --lr 1-TS502-loss.matches_reference]",
         "t.py::test_sanity[a-b:c -- --lr 1]"),
        ("t.py::test_sanity[mine-ACME1-loop.my_own]", "t.py::test_sanity[mine]"),
        ("t.py::test_other[mine-TS502-shop.matches]", "t.py::test_other[mine-TS502-shop.matches]"),
        ("t.py::test_plain", "t.py::test_plain"),
    ],
)  # fmt: skip
def test_what_stays_together(nodeid: str, scope: str) -> None:
    assert scope_of(nodeid) == scope


def test_xdist_builds_once_and_carries_the_summary(project):
    pytester = project("LOUD, select=['ACME']")
    pytester.makepyfile(test_other=SANITY.format(arguments="HEALTHY, select=['ACME']"))
    result = pytester.runpytest_subprocess("-n2", "--dist=loadfile", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["  the weight is 12, not 1", "*= trainsanity =*"])
    result.stdout.fnmatch_lines(["loud: not sane. First broken stage: loss"])
    result.stdout.fnmatch_lines(["healthy: sane as far as judged: 3 of * checks ran and passed"])
    assert sorted(built(pytester)) == ["1", "12"]


def test_xdist_s_default_keeps_a_pipeline_on_one_worker(project):
    pytester = project("LOUD, HEALTHY, select=['ACME']")
    pytester.makepyfile(test_plain="def test_one(): pass\ndef test_two(): pass")
    result = pytester.runpytest_subprocess("-n2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=6, failed=1, skipped=1)
    assert sorted(built(pytester)) == ["1", "12"]
    result.stdout.fnmatch_lines(["loud: not sane. First broken stage: loss"])
    result.stdout.fnmatch_lines(["healthy: sane as far as judged: 3 of * checks ran and passed"])


def test_a_scheduler_of_the_user_s_own_is_left_alone(project):
    pytester = project("LOUD, select=['ACME']")
    pytester.makepyfile(
        own_scheduler="def pytest_xdist_make_scheduler(config, log):\n"
        "    from xdist.scheduler import LoadFileScheduling\n"
        "    print('of my own')\n"
        "    return LoadFileScheduling(config, log)\n"
    )
    options = ("-n1", "-s", "-p", "own_scheduler", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*of my own*"])


def test_xdist_and_a_wrong_word_is_one_red_sentence(project):
    pytester = project("HEALTHY, select=['lossy']")
    result = pytester.runpytest_subprocess("-n1", "-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no check is called 'lossy'*"])
