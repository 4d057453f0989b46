"""The plugin, run on small projects: real torch models, checks as a user would write them."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import pytest
import torch  # noqa: F401 - see tests/plugin_project.py

import trainsanity.pytest_plugin.results  # noqa: F401 - see tests/plugin_project.py
from tests.plugin_project import CONFTEST, EXAMPLES, SANITY, built


def test_healthy_pipeline_is_green_and_summed_up(project):
    result = project("HEALTHY").runpytest_inprocess("-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "test_it.py::test_sanity[[]healthy-ACME301-collator.weight_is_finite] PASSED*",
            "test_it.py::test_sanity[[]healthy-ACME501-loss.weight_is_one] PASSED*",
            "*= trainsanity =*",
            "healthy: sane: 3 of 3 checks ran and passed",
        ]
    )


def test_a_failure_is_the_finding_and_no_traceback(project):
    result = project("LOUD").runpytest_inprocess("-ra")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.no_fnmatch_line("*ruled out*")
    result.stdout.fnmatch_lines(
        [
            "ACME501 loss.weight_is_one fails on loud",
            "  the weight is 12, not 1",
            "  observed  12",
            "  expected  1",
            "  factor    12.00",
            "  where     weight",
            "  cause     somebody drew it",
            "  fix       set it to 1",
            '  rerun     pytest "test_it.py::test_sanity[[]loud-ACME501-loss.weight_is_one]"',
            "loud: not sane. First broken stage: loss",
            "  ACME501 loss.weight_is_one: the weight is 12, not 1",
            "SKIPPED*blocked: ACME501 loss.weight_is_one comes first: fail",
            "FAILED*ACME501: th*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*def test_sanity*")


def test_what_is_ruled_out_is_told_with_v(project):
    result = project("LOUD").runpytest_inprocess("-v")
    result.stdout.fnmatch_lines(["  ruled out: weights: the weight is finite"])


@pytest.mark.parametrize("given", ["[LOUD, HEALTHY]", "(LOUD,), HEALTHY", "LOUD, HEALTHY"])
def test_pipelines_one_by_one_or_in_lists(project, given):
    result = project(given).runpytest_inprocess("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*6 tests collected*"])


@pytest.mark.parametrize(
    "select", ["'acme5, collator'", "['ACME501', 'collator']", "('acme5', 'ACME301')"]
)
def test_select_is_a_list_or_one_string(project, select):
    pytester = project(f"HEALTHY, select={select}")
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


# What the decorator names counts for itself.
@pytest.mark.parametrize(
    ("given", "judged"), [("HEALTHY", "ACME501"), ("HEALTHY, select='collator'", "ACME301")]
)
def test_the_choice_of_checks_stands_in_pyproject(project, given, judged):
    pytester = project(given)
    pytester.makepyprojecttoml('[tool.trainsanity]\nselect = "acme5"\ntimeout = 60')
    result = pytester.runpytest_inprocess("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*{judged}*PASSED*"])


def test_failures_are_accepted_of_one_pipeline_alone(project):
    pytester = project("'pipelines:loud', 'pipelines:louder'")
    (pytester.path / "pipelines.py").write_text(
        (pytester.path / "pipelines.py").read_text() + "\nlouder = loud\n"
    )
    pytester.makepyprojecttoml(
        '[tool.trainsanity.expected_failures."pipelines:loud"]\n"loss.weight_is_one" = "known"'
    )
    result = pytester.runpytest_inprocess("-k", "ACME501")
    result.assert_outcomes(xfailed=1, failed=1, deselected=4)


def test_the_rerun_command_runs_just_that(project):
    pytester = project("LOUD, HEALTHY")
    nodeid = "test_it.py::test_sanity[loud-ACME501-loss.weight_is_one]"
    pytester.runpytest_inprocess(nodeid).assert_outcomes(failed=1)


def test_a_blocked_check_alone_is_red_and_tells_the_cause(project):
    result = project("LOUD").runpytest_inprocess("-k", "ACME601")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "ACME601 gradient.follows is blocked on loud: ACME501 *",
            "Not in this run, but first to mend:",
            "ACME501 loss.weight_is_one fails on loud",
            "  fix       set it to 1",
        ]
    )


@pytest.mark.parametrize(
    ("word", "passed"),
    [("ACME5", 1), ("acme501", 1), ("collator", 1), ("weight_is_one", 1), ("loss or TS9", 1)],
)
def test_k_selects_by_code_stage_and_name(project, word, passed):
    result = project("HEALTHY").runpytest_inprocess("-k", word)
    result.assert_outcomes(passed=passed, deselected=3 - passed)


def test_each_pipeline_is_built_once_whatever_asks_for_it(project):
    more = """
@pytest.mark.parametrize("pipeline", [LOUD, HEALTHY], indirect=True, scope="session")
def test_mine(pipeline):
    assert pipeline.model.weight.numel() == 1

def test_unrelated():
    pass
"""
    pytester = project("LOUD, HEALTHY", more)
    pytester.runpytest_inprocess().assert_outcomes(passed=4 + 2 + 1, failed=1, skipped=1)
    assert built(pytester) == ["12", "1"]


def test_a_test_that_never_calls_its_check_fails(project):
    pytester = project("HEALTHY, select=['ACME501']")
    pytester.makepyfile(
        test_it=SANITY.format(arguments="LOUD, select=['ACME']").replace(
            "    check(pipeline)", "    assert check is not None"
        )
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*ACME501 loss.weight_is_one was not judged on loud: the test takes check and*"]
    )


def test_a_test_that_catches_the_failure_fails(project):
    pytester = project("HEALTHY, select=['ACME501']")
    pytester.makepyfile(
        test_it=SANITY.format(arguments="LOUD, select=['ACME']").replace(
            "    check(pipeline)", "    try: check(pipeline)\n    except Exception: pass"
        )
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*The test catches what check(pipeline) raises; a failure that*"])


def test_nothing_is_built_while_collecting(project):
    pytester = project("LOUD, 'pipelines:broken', 'no.such:module'")
    result = pytester.runpytest_inprocess("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*9 tests collected*"])
    assert not (pytester.path / "built.txt").exists()


def test_a_pipeline_is_emptied_before_the_next_is_built(project):
    more = """
import gc, weakref
seen = []

@pytest.mark.parametrize("pipeline", [LOUD, HEALTHY], indirect=True, scope="session")
def test_mine(pipeline):
    # A failed test's frames are kept by pytest; they must not keep the model.
    assert not [model for model in seen if model() is not None]
    seen.append(weakref.ref(pipeline.model))
    assert len(seen) == 2, "the first fails on purpose"
"""
    pytester = project("LOUD, HEALTHY", more)
    result = pytester.runpytest_inprocess("-k", "test_mine")
    result.assert_outcomes(passed=1, failed=1, deselected=6)


def test_a_factory_that_raises_is_one_sentence_per_check_and_tried_once(project):
    pytester = project("'pipelines:broken'")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        ["pipelines:broken raised OSError: the weights are not here (*pipelines.py line *)"]
    )
    result.stdout.fnmatch_lines(["pipelines:broken: incomplete: 0 of 3 checks ran"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert built(pytester) == ["broken"]


def test_verbose_shows_where_a_factory_raised(project):
    result = project("'pipelines:broken'").runpytest_inprocess("-v")
    result.stdout.fnmatch_lines(["*Traceback*", "OSError: the weights are not here"])


def test_expected_failures_are_strict(project):
    pytester = project(
        "PipelineSpec('loud', loud, expected_failures={'loss.weight_is_one': 'known, #1'}),"
        "PipelineSpec('mended', healthy, expected_failures={'loss.weight_is_one': 'known, #1'})"
    )
    result = pytester.runpytest_inprocess("-rx")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "ACME501 loss.weight_is_one passed, but is expected to fail (known, #1): delete *",
            "loud: sane but for what is accepted: 3 of 3 checks ran*1 failed as accepted",
            "XFAIL*known, #1*",
        ]
    )


def test_without_a_verdict_nothing_passes_or_fails_as_expected(project):
    spec = "PipelineSpec('healthy', healthy, expected_failures={'loss.crashes': 'known'})"
    pytester = project(spec)
    pytester.makeconftest(CONFTEST + (EXAMPLES / "acme_odd_checks.py").read_text())
    result = pytester.runpytest_inprocess("-v", "-rs")
    result.assert_outcomes(passed=3, skipped=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "ACME502 loss.crashes came to no verdict on healthy",
            "  the check raised ZeroDivisionError: by design",
            "*Traceback*",
            "*ACME401 skipped; ACME402 abstained; ACME502 ended in an error.",
            "SKIPPED*nothing to see",
            "SKIPPED*abstained: too noisy",
        ]
    )


def test_gpu_pipelines_skip_with_the_reason_and_are_not_built(project, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    pytester = project("PipelineSpec('big', healthy, marks=(pytest.mark.gpu,))")
    result = pytester.runpytest_inprocess("-rs", "-m", "gpu", "--strict-markers")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(
        [
            "big: incomplete: 0 of 3 checks ran",
            "SKIPPED [[]3] *needs a GPU, and torch * finds no CUDA device",
        ]
    )
    assert not (pytester.path / "built.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ("select=['lossy']", [], "no check is called 'lossy'*"),
        ("HEALTHY, select=['loss'], ignore=['loss']", [], "*leave no check to run"),
        ("HEALTHY", ["--trainsanity-select", "TS"], "no check is called 'TS'*"),
        ("HEALTHY", ["--trainsanity-select", ","], "an option names no check*"),
        ("HEALTHY", ["--trainsanity-ignore", "*.*"], "*leave no check to run"),
        ("HEALTHY", ["--trainsanity", "pipelines:loud"], "*but no test here would judge it*"),
        ("", [], "no pipeline to judge: give --trainsanity*"),
        ("'pipelines'", [], "'pipelines' names no pipeline: *"),
        (
            "PipelineSpec('x', healthy, expected_failures={'loss.weight': 'why'})",
            [],
            "no check is called 'loss.weight'*",
        ),
        (
            "PipelineSpec('x', healthy, expected_failures={'ACME501': 'why'})",
            [],
            "*name the check in full, not by 'ACME501'",
        ),
    ],
)
def test_wrong_words_are_usage_errors(project, arguments, options, sentence):
    arguments = arguments.replace("select=['lossy']", "HEALTHY, select=['lossy']")
    result = project(arguments).runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_test_without_the_parameters_is_a_usage_error(pytester, project):
    project("HEALTHY")
    test = SANITY.format(arguments="HEALTHY").replace("(pipeline, check)", "(pipeline)")
    pytester.makepyfile(test_it=test)
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *test_sanity takes no check: write def *"])


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        (["--trainsanity-select=loss,ACME3"], 2),
        (["--trainsanity-ignore=loss"], 2),
        (["--trainsanity-max-cost=static"], 3),
    ],
)
def test_options_narrow(project, options, passed):
    result = project("HEALTHY").runpytest_inprocess(*options)
    result.assert_outcomes(passed=passed, deselected=3 - passed)


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        ([], {"passed": 2, "xfailed": 1}),
        # What is accepted is accepted for every pipeline, and strict: here it passes.
        (["--trainsanity", "pipelines:healthy"], {"passed": 2, "failed": 1}),
    ],
)
def test_pipelines_and_accepted_failures_of_pyproject(project, options, outcomes):
    pytester = project("")
    pytester.makepyprojecttoml(
        "[tool.pytest.ini_options]\n"
        '[tool.trainsanity]\npipelines = ["pipelines:loud"]\n'
        "expected_failures = {'loss.weight_is_one' = 'known'}\n"
    )
    pytester.runpytest_inprocess(*options).assert_outcomes(**outcomes)


def test_junit_carries_the_result(project):
    pytester = project("LOUD")
    pytester.runpytest_inprocess("--junitxml=junit.xml")
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    case = next(case for case in cases if "ACME501" in case.attrib["name"])
    properties = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
    assert properties.pop("trainsanity.seconds")
    (finding,) = json.loads(properties.pop("trainsanity.findings"))
    assert (finding["severity"], finding["fix"]) == ("failure", "set it to 1")
    assert properties == {
        "trainsanity.pipeline": "loud",
        "trainsanity.code": "ACME501",
        "trainsanity.name": "loss.weight_is_one",
        "trainsanity.stage": "loss",
        "trainsanity.status": "fail",
        "trainsanity.observed": "12.0",
        "trainsanity.expected": "1.0",
        "trainsanity.factor": "12.0",
        "trainsanity.message": "the weight is 12, not 1",
        "trainsanity.measured": "the weight is 12",
        "trainsanity.cost": "STATIC",
        "trainsanity.cause": "somebody drew it",
        "trainsanity.fix": "set it to 1",
        "trainsanity.where": "weight",
    }
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "ACME501: the weight is 12, not 1"


def test_a_foreign_project_and_the_whole_catalogue(pytester):
    """Five lines, a real Trainer with a loss three times too large."""
    shutil.copy(EXAMPLES / "cli_factories.py", pytester.path / "train.py")
    pytester.makepyfile(
        test_sanity="""
        import trainsanity

        @trainsanity.parametrize_with_checks("train:healthy", "train:loud", select=["TS5", "TS6"])
        def test_sanity(pipeline, check):
            check(pipeline)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["TS502 loss.matches_reference fails on train:loud", "  factor    3.00"]
    )
    assert result.parseoutcomes()["failed"] == 1


def test_suite_by_pyargs(pytester):
    shutil.copy(EXAMPLES / "cli_factories.py", pytester.path / "train.py")
    pytester.makeconftest(CONFTEST.partition('@trainsanity.check("ACME501"')[0])
    result = pytester.runpytest_subprocess(
        *("--pyargs", "trainsanity.suite", "--trainsanity", "train:loud"),
        *("--trainsanity-select", "TS5,ACME301", "-p", "no:cacheprovider"),
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(
        [
            "TS502 loss.matches_reference fails on train:loud",
            "  rerun     pytest --pyargs trainsanity.suite --trainsanity train:loud -k TS502",
            "train:loud: not sane. First broken stage: loss",
        ]
    )


def test_unused_the_plugin_loads_nothing_heavy(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy():
            heavy = {"torch", "transformers", "datasets", "hypothesis", "numpy", "rich", "click"}
            assert not heavy & set(sys.modules)
            assert "trainsanity.pytest_plugin" in sys.modules
            assert not {"trainsanity.checks", "trainsanity.engine.runner"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
