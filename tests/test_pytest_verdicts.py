"""The plugin, where a check warns, is not judged, takes too long, or costs a run."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
import torch  # noqa: F401 - see tests/plugin_project.py

import trainsanity.pytest_plugin.results  # noqa: F401 - see tests/plugin_project.py
from tests.plugin_project import CONFTEST, EXAMPLES

NO_ERROR = ("-W", "default::trainsanity.CheckWarning")
"""Undoes, for a run in this process, what filterwarnings of this repository says."""

WARNS = (EXAMPLES / "acme_warning.py").read_text()
UNJUDGED = (EXAMPLES / "acme_unjudged.py").read_text()


@pytest.fixture
def warning(project):
    """The project with one more check, which warns."""

    def make(arguments: str, more: str = "") -> pytest.Pytester:
        made = project(arguments)
        made.makeconftest(CONFTEST + WARNS + more)
        return made

    return make


def test_a_warning_is_a_pytest_warning_and_the_test_passes(warning):
    result = warning("HEALTHY").runpytest_inprocess(*NO_ERROR)
    result.assert_outcomes(passed=4, warnings=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "*CheckWarning: ACME302 collator.weight_is_round warns on healthy",
            "*  the weight is 1, which has one digit",
            "*  fix       draw another",
            "healthy: sane, 1 warning: 4 of 4 checks ran and 3 passed",
            "  4 of 4 checks ran: 3 passed, 1 warning.",
            "  warning: ACME302 collator.weight_is_round: the weight is 1, which has one digit",
        ]
    )


def test_junit_carries_the_warning(warning):
    pytester = warning("HEALTHY")
    pytester.runpytest_inprocess("--junitxml=junit.xml", *NO_ERROR)
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    case = next(case for case in cases if "ACME302" in case.attrib["name"])
    properties = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
    assert properties["trainsanity.status"] == "warning"
    assert properties["trainsanity.fix"] == "draw another"
    (finding,) = json.loads(properties["trainsanity.findings"])
    assert finding["severity"] == "warning"
    assert case.find("failure") is None


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (["--trainsanity-warnings-as-errors"], ""),
        (["-W", "error::trainsanity.CheckWarning"], ""),
        (["-W", "error"], ""),
        ([], "[tool.trainsanity]\nwarnings_as_errors = true\n"),
    ],
    ids=["option", "category", "all", "pyproject"],
)
def test_warnings_can_fail(warning, options, setting):
    pytester = warning("HEALTHY")
    if setting:
        pytester.makepyprojecttoml("[tool.pytest.ini_options]\n" + setting)
    result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "ACME302 collator.weight_is_round warns on healthy",
            "  fix       draw another",
            '  rerun     pytest "test_it.py::*ACME302*',
            "healthy: not sane: 1 warning, and warnings count as failures: 4 of 4 checks ran and *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_warning_blocks_nothing_and_can_be_accepted(warning):
    blocked = """
@trainsanity.check("ACME602", "gradient.follows_too", requires=("collator.weight_is_round",))
def follows_too(pipeline):
    yield Measured("follows")
"""
    accepted = "expected_failures={'collator.weight_is_round': 'known, #2'}"
    pytester = warning(f"PipelineSpec('healthy', healthy, {accepted})", blocked)
    result = pytester.runpytest_inprocess("-rx")
    result.assert_outcomes(passed=4, xfailed=1)
    result.stdout.fnmatch_lines(["  accepted: ACME302 collator.weight_is_round: known, #2"])


def test_an_accepted_warning_that_is_gone_is_red(warning):
    accepted = "expected_failures={'collator.weight_is_round': 'known, #2'}"
    gone = f"PipelineSpec('loud', loud, {accepted}), select=['collator']"
    result = warning(gone).runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["ACME302 collator.weight_is_round passed, but is expected*"])


def test_xdist_carries_warnings(warning):
    pytester = warning("HEALTHY, select=['ACME']")
    pytester.makepyprojecttoml("[tool.trainsanity]\nwarnings_as_errors = true\n")
    options = ("-n1", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["healthy: not sane: 1 warning, and warnings count as failures:*"])


@pytest.fixture
def unjudged(project):
    """The project with two checks that judge a step, neither of which applies."""

    def make(arguments: str) -> pytest.Pytester:
        made = project(arguments)
        made.makeconftest(CONFTEST + UNJUDGED)
        return made

    return make


def test_a_step_that_no_check_judged_is_red(unjudged):
    result = unjudged("HEALTHY").runpytest_inprocess("--junitxml=junit.xml")
    result.assert_outcomes(passed=3, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "healthy: incomplete: neither loss nor gradient was compared with a computed value: "
            "there is no reference",
            "  Neither loss nor gradient was compared with a computed value, and that is no "
            "success: exit code 1.",
        ]
    )


def test_a_step_that_no_check_judged_is_red_under_xdist(unjudged):
    pytester = unjudged("HEALTHY, select=['ACME']")
    # Of the whole catalogue only these judge a step.
    pytester.makeconftest(CONFTEST + UNJUDGED + FORGET)
    result = pytester.runpytest_subprocess("-n1", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


FORGET = """
from dataclasses import replace
from trainsanity.engine.registry import registry

for check in registry().all():
    if not check.code.startswith("ACME"):
        registry()._checks[check.name] = replace(check, judges=None)
"""


@pytest.mark.parametrize(
    "options",
    [
        ["-k", "collator"],
        ["-k", "ACME501"],
        ["-k", "collator or ACME512"],
        ["--trainsanity-select", "collator,ACME512"],
        ["--trainsanity-max-cost", "FORWARD"],
    ],
    ids=["stage", "one", "one-of-two", "option", "max-cost"],
)
def test_a_session_that_leaves_judging_checks_out_stays_green(unjudged, options):
    result = unjudged("HEALTHY").runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["healthy: sane as far as judged: *"])


def test_one_check_by_itself_that_skips_is_red_as_before(unjudged):
    result = unjudged("HEALTHY").runpytest_inprocess("-k", "ACME512")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["  Nothing was judged, and that is no success: exit code 1."])


def test_one_verdict_of_several_is_enough(unjudged):
    pytester = unjudged("LOUD, select=['ACME5', 'ACME6'], ignore=['ACME501', 'ACME601']")
    result = pytester.runpytest_inprocess()
    # With this weight one of the two applies.
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK


RUN = """
@trainsanity.check("ACME901", "loop.takes_an_hour", cost=trainsanity.Cost.RUN)
def takes_an_hour(pipeline):
    yield trainsanity.Finding("it took an hour")
"""


@pytest.mark.parametrize(
    ("arguments", "options", "names"),
    [
        ("HEALTHY", [], {"ACME301", "ACME501", "ACME601"}),
        ("HEALTHY", ["--trainsanity-ignore=loss"], {"ACME301", "ACME601"}),
        ("HEALTHY", ["--trainsanity-max-cost=run"], {"ACME301", "ACME501", "ACME601", "ACME901"}),
        ("HEALTHY", ["--trainsanity-select=loop,ACME3"], {"ACME301", "ACME901"}),
        ("HEALTHY, select=['loop']", [], {"ACME901"}),
        ("HEALTHY, select=['loop']", ["--trainsanity-ignore=loss"], {"ACME901"}),
        ("HEALTHY, max_cost=trainsanity.Cost.STEP", ["--trainsanity-max-cost=run"],
         {"ACME301", "ACME501", "ACME601"}),
    ],
)  # fmt: skip
def test_runs_are_judged_where_they_are_asked_for(project, pytester, arguments, options, names):
    project(arguments)
    pytester.makeconftest(CONFTEST + RUN)
    result = pytester.runpytest_inprocess(*options, "-v")
    told = {word for line in result.outlines for word in line.split("-") if "ACME" in word}
    assert {word for word in told if word in {"ACME301", "ACME501", "ACME601", "ACME901"}} == names
    if "ACME901" in names:
        result.stdout.fnmatch_lines(["  rerun     *ACME901*--trainsanity-select ACME901"])
    else:
        by_cost = "*ACME901 left out by cost: select them by name, or set max-cost to RUN*"
        result.stdout.fnmatch_lines([by_cost])


SLOW = """
import time
from trainsanity import Measured, check

@check("ACME901", "loop.never_ends")
def never_ends(pipeline):
    time.sleep(600)
    yield Measured("it does")
"""


def test_a_check_that_takes_too_long_is_red_and_the_others_are_judged(project):
    made = project("HEALTHY")
    made.makeconftest(CONFTEST + SLOW)
    result = made.runpytest_inprocess("--trainsanity-timeout", "1")
    result.assert_outcomes(passed=3, failed=1)
    said = "*check ACME901 took longer than the 1 s that it was given and was stopped"
    result.stdout.fnmatch_lines([said])
    assert result.ret == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_limit_is_a_number_above_zero(project, seconds):
    result = project("HEALTHY").runpytest_inprocess("--trainsanity-timeout", seconds)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--trainsanity-timeout is *: give a number of seconds above 0"])
