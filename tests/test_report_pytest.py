"""JUnit and pytest's summary, written by several processes and read back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parent / "examples"

SANITY = """
import trainsanity
from trainsanity import PipelineSpec
from pipelines import *

ACCEPTED = PipelineSpec("accepted", loud, expected_failures={"loss.weight_is_one": "known, #1"})
MENDED = PipelineSpec("mended", healthy, expected_failures={"loss.weight_is_one": "known, #1"})

@trainsanity.parametrize_with_checks(%s, select=["ACME"])
def test_sanity(pipeline, check):
    check(pipeline)
"""


@pytest.fixture
def ran(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.RunResult:
    """Four pipelines in two processes, one module each, as the README says."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.syspath_prepend(pytester.path)
    pytester.makeconftest((EXAMPLES / "acme_checks.py").read_text())
    pytester.makepyfile(
        pipelines=(EXAMPLES / "acme_pipelines.py").read_text(),
        **{
            f"test_{spec.lower()}": SANITY % spec
            for spec in ("LOUD", "HEALTHY", "ACCEPTED", "MENDED")
        },
    )
    options = ("-n2", "--dist=loadfile", "--junitxml=junit.xml", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*options)


def test_junit_and_the_summary_carry_every_result_once(
    ran: pytest.RunResult, pytester: pytest.Pytester
) -> None:
    ran.assert_outcomes(passed=9 - 1, failed=2, skipped=1, xfailed=1)
    results: dict[tuple[str, str], dict[str, str]] = {}
    cases: dict[tuple[str, str], ElementTree.Element] = {}
    for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase"):
        told = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        key = (told["trainsanity.pipeline"], told["trainsanity.code"])
        assert key not in results
        results[key], cases[key] = told, case
    assert {key: told["trainsanity.status"] for key, told in results.items()} == {
        ("loud", "ACME301"): "pass", ("loud", "ACME501"): "fail", ("loud", "ACME601"): "blocked",
        ("healthy", "ACME301"): "pass", ("healthy", "ACME501"): "pass",
        ("healthy", "ACME601"): "pass",
        ("accepted", "ACME301"): "pass", ("accepted", "ACME501"): "xfail",
        ("accepted", "ACME601"): "pass",
        ("mended", "ACME301"): "pass", ("mended", "ACME501"): "xpass",
        ("mended", "ACME601"): "pass",
    }  # fmt: skip
    loud = results["loud", "ACME501"]
    assert float(loud["trainsanity.factor"]) == 12
    assert loud["trainsanity.fix"] == "set it to 1"
    for pipeline in ("accepted", "mended"):
        assert results[pipeline, "ACME501"]["trainsanity.reason"] == "known, #1"
    accepted = cases["accepted", "ACME501"].find("skipped")
    assert accepted is not None
    assert accepted.attrib["type"] == "pytest.xfail"
    assert "known, #1" in accepted.attrib["message"]
    gone = cases["mended", "ACME501"].find("failure")
    assert gone is not None
    assert "delete its entry in expected_failures" in (gone.text or "")


def test_the_summary_tells_what_is_accepted_and_what_is_gone(ran: pytest.RunResult) -> None:
    ran.stdout.fnmatch_lines(["*= trainsanity =*"])
    for line in (
        "loud: not sane. First broken stage: loss",
        "healthy: sane as far as judged: 3 of * checks ran and passed",
        "accepted: sane as far as judged but for what is accepted: 3 of *",
        "  accepted: ACME501 loss.weight_is_one: known, #1",
        "mended: not as expected: what was accepted as a failure passes now",
        "  expected to fail, but passed: ACME501 loss.weight_is_one: known, #1",
    ):
        ran.stdout.fnmatch_lines([line])
