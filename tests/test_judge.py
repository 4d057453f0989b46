"""``trainsanity.judge`` and what Python shows of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trainsanity
from trainsanity.errors import UsageError
from trainsanity.report.words import verdict
from trainsanity.types import Status

EXAMPLES = Path(__file__).parent / "examples"


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Trainer whose loss is 3 x too high."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import cli_factories

    return cli_factories.loud()


def test_a_report_shows_itself(loud: Any) -> None:
    weights = {name: tensor.clone() for name, tensor in loud.model.state_dict().items()}
    report = trainsanity.judge(loud, select="ts502, dataset")
    assert report.pipeline_id == "LoudTrainer of BertForSequenceClassification"
    headline = f"{report.pipeline_id}: {verdict(report)}"
    assert repr(report) == f"<{headline}; print() shows the report>"
    assert "not sane. First broken stage: loss" in repr(report)
    assert "\n" not in repr(report)
    assert str(report).splitlines()[0] == headline
    assert "TS502 loss.matches_reference  fails" in str(report)
    assert not report.good
    loss = report["TS502"]
    assert loss.status is Status.FAIL
    assert report.failures == (loss,)
    assert report.warnings == ()
    assert repr(loss) == f"<TS502 loss.matches_reference: fail: {loss.findings[0].headline}>"
    assert report["loss.matches_reference"] is report["ts502"] is loss
    with pytest.raises(KeyError, match=r"'TS801' is none of the \d+ checks"):
        report["TS801"]
    assert all((tensor == weights[name]).all() for name, tensor in loud.model.state_dict().items())
    accepted = trainsanity.judge(
        loud, select=["TS502"], expected_failures={"loss.matches_reference": "on purpose"}
    )
    assert accepted.good


def test_python_is_not_told_of_options_of_the_command_line(loud: Any) -> None:
    report = trainsanity.judge(loud, select="dataset", max_cost="static")
    assert all(result.check.cost == 0 for result in report.results)
    assert 'not run: max_cost="run"' in str(report)
    assert " -v" not in str(report)
    assert "--" not in str(report)


def test_a_pipeline_is_one_line(loud: Any) -> None:
    pipeline = trainsanity.Pipeline.from_trainer(loud)
    assert repr(pipeline) == "<Pipeline pipeline: BertForSequenceClassification, LoudTrainer>"


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        (3, {}, r"a transformers\.Trainer, or a Pipeline, and not of type int: give the Trainer"),
        (len, {}, r"not of type builtin_function_or_method: .*, as in judge\(len\(\)\)"),
        (
            None,
            {"max_cost": "lots"},
            "max_cost must be one of STATIC, FORWARD, BACKWARD, STEP, RUN",
        ),
        (None, {"select": "nothing"}, "no check is called 'nothing'"),
        (None, {"select": "dataset", "ignore": "dataset"}, "leave no check to run"),
        (None, {"timeout": 0}, "timeout is 0"),
    ],
)
def test_bad_calls(given: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        trainsanity.judge(given, **options)


def test_the_public_names_are_shown_without_loading_them() -> None:
    code = (
        "import sys, trainsanity; names = dir(trainsanity)\n"
        "assert {'judge', 'Pipeline', 'SanityCallback', '__version__'} <= set(names), names\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("block", ["no_grad", "inference_mode"])
def test_where_gradients_are_off_a_sentence_says_so(block: str, loud: Any) -> None:
    import torch

    with getattr(torch, block)():
        with pytest.raises(UsageError, match=r"gradients are off here .* outside of that block"):
            trainsanity.judge(loud, select="TS502,TS602")
        assert trainsanity.judge(loud, select="TS401").good
        assert not torch.is_grad_enabled()
