"""What was not judged is never a success, and is said in words.

Beside these: tests/test_runner.py for the exit codes of reports, tests/cli/test_cli.py for calls
that leave no check, tests/cli/test_cli_input.py and tests/test_pytest_plugin.py for accepted
failures whose check has another name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]

SKIPPING = """
import trainsanity

@trainsanity.check("ACME401", "model.skips")
def skips(pipeline):
    raise trainsanity.Skip("nothing to see")

@trainsanity.check("ACME402", "model.abstains")
def abstains(pipeline):
    raise trainsanity.Abstain("too noisy")
"""

SANITY = """
import os, signal
import pytest, torch, trainsanity
from trainsanity import Pipeline, PipelineSpec

def linear():
    return Pipeline(torch.nn.Linear(2, 2))

def dies():
    os.kill(os.getpid(), signal.SIGKILL)
    return 1

def exits():
    raise SystemExit(0)

@trainsanity.parametrize_with_checks(PipelineSpec("it", {factory}), select=["ACME"])
def test_sanity(pipeline, check):
    check(pipeline)
"""


def test_all_skipped_is_red_under_pytest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(SKIPPING)
    pytester.makepyfile(SANITY.format(factory="linear"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["it: incomplete: 0 of *", "  Nothing was judged, and that is no success: exit code 1."]
    )


def test_all_skipped_is_red_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(SKIPPING)
    pytester.makepyfile(SANITY.format(factory="linear"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n1")
    result.assert_outcomes(skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_worker_that_dies_is_red(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(SKIPPING)
    pytester.makepyfile(SANITY.format(factory="dies"))
    options = ("-p", "no:cacheprovider", "-n1", "--max-worker-restart=1")
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["worker 'gw0' crashed while running*"])


def test_a_factory_that_exits_with_0_is_red(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(SKIPPING)
    pytester.makepyfile(SANITY.format(factory="exits"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["it raised SystemExit: 0; *"])


@pytest.fixture
def broken_package(tmp_path: Path) -> Path:
    """An installed package that promises checks and cannot be imported."""
    (tmp_path / "acme_checks_broken.py").write_text("import no_such_dependency\n")
    info = tmp_path / "acme_checks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-checks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trainsanity.checks]\nacme = acme_checks_broken\n")
    return tmp_path


SENTENCE = (
    "the checks of acme-checks (acme = acme_checks_broken) cannot be loaded: "
    "ModuleNotFoundError: No module named 'no_such_dependency'; mend that package or uninstall it"
)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["trainsanity", "list"], 2),
        (["trainsanity", "run", "cli_factories:healthy"], 2),
        (["pytest", "--pyargs", "trainsanity.suite", "--trainsanity=cli_factories:healthy"], 4),
        (["pytest", "--co", str(ROOT / "tests" / "test_versions.py"), "-k", "tokenizer"], 4),
    ],
    ids=["list", "run", "pytest", "keyword"],
)
def test_checks_that_cannot_be_loaded_are_missed(
    broken_package: Path, command: list[str], code: int
) -> None:
    path = [str(ROOT), str(ROOT / "tests" / "examples"), str(broken_package)]
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=broken_package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout
    assert SENTENCE in result.stderr
    assert "Traceback" not in result.stderr
