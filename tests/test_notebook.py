"""``trainsanity.check`` in a notebook, and what a notebook shows of the report."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import trainsanity
from trainsanity.errors import UsageError
from trainsanity.report.notebook import html_of

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / "examples"


class Elements(HTMLParser):
    """The elements of a piece of HTML, and whether each is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    import cli_factories

    return cli_factories


def test_check_judges_a_trainer_and_registers_with_a_code(factories: Any) -> None:
    report = trainsanity.check(factories.loud(), select="loss", quick=True, fail_fast=True)
    assert not report.good
    assert len(repr(report).splitlines()) == 1
    # The first failure is the last that was asked; what comes after it was not selected.
    assert [str(result.status) for result in report.results].count("fail") == 1
    assert str(report.results[-1].status) == "fail"
    assert {check.code for check in report.unasked} >= {"TS518", "TS608"}
    code = report.results[-1].check.code
    assert f"NOTE: stopped at {code}, the first that went wrong" in str(report)
    shown = Elements(html_of(report))
    assert shown.open == []
    assert shown.names <= {"div", "strong", "code", "em", "details", "summary", "pre"}
    assert shown.text.startswith(f"{report.pipeline_id}: not sane. First broken stage: loss")
    assert "num_labels = 3, which is not divided out" in shown.text
    with pytest.raises(UsageError, match="is a transformers"):
        trainsanity.check(3)
    with pytest.raises(UsageError, match="ACME 1"):
        trainsanity.check("ACME 1", "loss.of_mine")(lambda: ())


def test_a_name_is_no_markup(factories: Any) -> None:
    pipeline = trainsanity.Pipeline.from_trainer(factories.healthy())
    pipeline.id = "<script>alert(1)</script>"
    shown = trainsanity.check(pipeline, select="schedule.peak_is_reached")._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_a_quick_look_is_not_taken_for_a_whole_one(factories: Any) -> None:
    pipeline = trainsanity.Pipeline.from_trainer(factories.healthy())
    (quick,) = trainsanity.check(pipeline, select="TS608", quick=True).results
    assert str(quick.status) == "skip"
    assert "--quick takes no step twice" in quick.reason
    (whole,) = trainsanity.check(pipeline, select="TS608").results
    assert str(whole.status) == "pass"


def test_a_notebook() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    path = [str(ROOT), str(EXAMPLES)]
    cells = [
        f"import sys; sys.path[:0] = {path!r}\nimport cli_factories, trainsanity\n"
        "trainer = cli_factories.loud()",
        "trainsanity.check(trainer, select='loss')",
        "report = trainsanity.check(trainer, select='dataset')\nprint(repr(report))",
        "trainer.state.global_step, trainer.model.training",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    judged, printed, after = (cell.outputs for cell in notebook.cells[1:])
    (shown,) = [output["data"] for output in judged if output.output_type == "execute_result"]
    assert "TS502" in shown["text/html"]
    named = "<LoudTrainer of BertForSequenceClassification: "
    verdict = "not sane. First broken stage: loss"
    # IPython folds what is longer than its line.
    told = " ".join(shown["text/plain"].split())
    assert told == f"{named}{verdict}; print() shows the report>"
    # The line of progress was there and is gone.
    (line,) = [output["data"] for output in judged if output.output_type == "display_data"]
    assert line["text/html"] == ""
    (text,) = [output["text"] for output in printed if output.output_type == "stream"]
    assert text.startswith(f"{named}sane as far as judged: ")
    assert after[-1]["data"]["text/plain"] == "(0, True)"
