"""What the user declares the loss to be: in pyproject.toml, on the function, on the pipeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fixtures.faults.loss_laws import _focal, _with_loss
from fixtures.field._encoders import arguments, classification
from trainsanity import Pipeline, PipelineSpec, UsageError
from trainsanity.cli.main import program
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import objective_of
from trainsanity.objectives.base import CAUSAL_LM, CUSTOM, SINGLE_LABEL
from trainsanity.sources.config import configuration
from trainsanity.sources.factory import spec_of
from trainsanity.types import Status


def tiny() -> Any:
    return classification(args=arguments(gradient_accumulation_steps=2))


JUDGES = ("loss.formula_is_known", "loss.adds_up", "loss.matches_reference",
          "loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum")  # fmt: skip


def focal_of_pairs() -> Any:
    """Return a Trainer whose loss is focal, and pulls the rows of a batch together."""

    def loss(logits: Any, labels: Any) -> Any:
        losses = _focal(logits, labels)
        return losses.mean() + 10 * losses.std(unbiased=False)

    trainer = tiny()
    # BERT's forward takes **kwargs, and its Trainer would take the loss for divided already.
    trainer.model_accepts_loss_kwargs = False
    return _with_loss(trainer, loss)


def judged(objective: str | None) -> dict[str, Status]:
    spec = PipelineSpec("focal", focal_of_pairs, declared={"objective": objective})
    with spec.built() as pipeline:
        report = run(pipeline, registry().select(JUDGES))
    return {result.check.name: result.status for result in report.results} | {
        "exit": int(report.exit_code())
    }


def test_a_custom_loss_is_a_warning_until_it_is_declared():
    undeclared, declared = judged(None), judged(CUSTOM)
    assert undeclared["loss.formula_is_known"] is Status.WARNING
    assert undeclared["loss.adds_up"] is Status.WARNING
    assert declared["loss.formula_is_known"] is Status.SKIP
    assert declared["loss.adds_up"] is Status.PASS
    # The laws judge it either way.
    for name in ("loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum"):
        assert undeclared[name] is declared[name] is Status.PASS
    assert undeclared["exit"] == declared["exit"] == 0


def test_another_loss_than_the_declared_objective_is_a_failure():
    declared = judged(SINGLE_LABEL)
    assert declared["loss.formula_is_known"] is Status.FAIL
    assert declared["loss.matches_reference"] is Status.BLOCKED
    assert declared["exit"] == 1


def test_labels_and_head_are_those_of_the_recognised_objective():
    trainer = tiny()
    custom = Pipeline.from_trainer(trainer, objective=CUSTOM)
    assert objective_of(custom).name == SINGLE_LABEL
    # A name is taken at its word.
    assert objective_of(Pipeline.from_trainer(trainer, objective=CAUSAL_LM)).name == CAUSAL_LM


def test_the_function_is_asked_before_the_settings(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("declares_objectives.py").write_text(
        "from tests.sources.test_declared import focal_of_pairs\n"
        "def silent(): return focal_of_pairs()\n"
        "def declares(): return focal_of_pairs()\n"
        "declares.objective = 'custom'\n"
        "def wrong(): return focal_of_pairs()\n"
        "wrong.objective = 'costum'\n"
    )

    def objective(name: str) -> str | None:
        target = f"declares_objectives:{name}"
        return spec_of(target, declared={"objective": SINGLE_LABEL}).make().objective

    assert objective("declares") == CUSTOM
    assert objective("silent") == SINGLE_LABEL
    with pytest.raises(UsageError, match="no objective 'costum'; did you mean 'custom'"):
        objective("wrong")


@pytest.mark.parametrize(
    ("value", "said"),
    [("'custum'", "did you mean 'custom'?"), ("'?'", "there are custom, "), ("3", "there are")],
)
def test_an_unknown_name_in_the_settings(value: str, said: str, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text(f"[tool.trainsanity]\nobjective = {value}\n")
    with pytest.raises(UsageError) as caught:
        configuration(tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_ends_with_2(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text('[tool.trainsanity]\nobjective = "unheard of"\n')
    ended = CliRunner().invoke(program, ["run", "some.module:factory"])
    assert ended.exit_code == 2
    assert "there is no objective 'unheard of'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
