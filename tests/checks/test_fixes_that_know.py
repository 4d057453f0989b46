"""Fixes that know the situation: what else is set, and which code it is that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trainsanity
from trainsanity.sources.script import Script
from trainsanity.types import Finding

pytest.importorskip("transformers")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    import cli_factories

    return cli_factories


def found(trainer: Any, code: str) -> Finding:
    """The first finding of one check, of which all that it requires passes."""
    report = trainsanity.judge(trainer, select=code)
    (result,) = [result for result in report.results if result.check.code == code]
    assert result.findings, (result.status, result.reason)
    return result.findings[0]


def test_a_head_that_peft_froze(factories: Any) -> None:
    peft = pytest.importorskip("peft")
    trainer = factories.healthy()
    # Without task_type nothing says that this is a classifier.
    config = peft.LoraConfig(r=2, target_modules=["query"])
    finding = found(type(trainer)(model=peft.get_peft_model(trainer.model, config),
                                  args=trainer.args, train_dataset=trainer.train_dataset),
                    "TS601")  # fmt: skip
    assert "PEFT froze it with the base model" in (finding.cause or "")
    assert 'LoraConfig(task_type="SEQ_CLS"' in (finding.fix or "")
    assert "modules_to_save" in (finding.fix or "")


def test_a_head_that_is_frozen_by_hand(factories: Any) -> None:
    trainer = factories.healthy()
    trainer.model.classifier.requires_grad_(False)
    finding = found(trainer, "TS601")
    assert finding.fix == "set requires_grad on the head before the optimizer is built"


@pytest.mark.parametrize("late", [True, False])
def test_a_switch_that_was_set_too_late(factories: Any, late: bool) -> None:
    trainer = factories.healthy()
    trainer.args.gradient_accumulation_steps = 2
    # As for a model whose forward takes **kwargs and whose loss ignores the count.
    trainer.model_accepts_loss_kwargs = True
    if late:
        trainer.model.accepts_loss_kwargs = False
    finding = found(trainer, "TS502")
    assert finding.candidates == ("gradient_accumulation_steps = 2",)
    said = "was set after the Trainer was built" in (finding.cause or "")
    assert said is late
    assert ("before Trainer(model, ...) is called" in (finding.fix or "")) is late


@pytest.mark.parametrize(
    ("made", "names"),
    [
        ("healthy", ("gradient_accumulation_steps = 3",)),
        # What multiplies each micro-batch may be read from the arguments, too.
        ("loud", ("gradient_accumulation_steps = 3", "num_labels = 3")),
    ],
    ids=["not divided", "multiplied"],
)
def test_two_quantities_are_told_apart_by_micro_batches_alone(
    factories: Any, made: str, names: tuple[str, ...]
) -> None:
    """A micro-batch that is a step of its own has no accumulation."""
    trainer = getattr(factories, made)()
    trainer.args.gradient_accumulation_steps = 3
    trainer.model_accepts_loss_kwargs = made == "healthy"
    finding = found(trainer, "TS502")
    assert finding.factor == pytest.approx(3, rel=1e-3)
    assert finding.candidates == names


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"learning_rate": 1e-11}, "the rate is less than half a unit in the last place"),
        ({"learning_rate": 0.0}, "the learning rate is 0"),
    ],
)
def test_float32_is_as_fine_as_it_gets(
    factories: Any, settings: dict[str, float], cause: str
) -> None:
    trainer = factories.healthy()
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    finding = found(trainer, "TS702")
    assert (finding.cause or "").startswith(cause)
    assert "rate" in (finding.fix or "")
    assert "dtype" not in (finding.fix or "")


LOOP = """
import torch
from transformers import BertConfig, BertForSequenceClassification
torch.manual_seed(0)
model = BertForSequenceClassification(BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=5,
    intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
rows = [(torch.randint(50, (6,)), k % 5) for k in range(64)]
loader = torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for k, (ids, labels) in enumerate(loader):
    model(input_ids=ids, labels=labels).loss.backward()
    if k % 3 == 2:
        optimizer.step()
        optimizer.zero_grad()
"""


def test_a_loop_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns nothing, and has no Trainer whose switches could be set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.py").write_text(LOOP)
    report = Script("loop.py", (), {}, {}).visit(
        lambda pipeline: trainsanity.judge(pipeline, select="loss,gradient,update")
    )
    (step,) = [k for k, line in enumerate(LOOP.splitlines(), 1) if "optimizer.step" in line]
    assert report.source == (str(tmp_path / "loop.py"), step)
    by_code = {result.check.code: result for result in report.results if result.findings}
    assert by_code["TS502"].findings[0].fix == "loss = loss / 3 before backward()"
    assert by_code["TS704"].status == "warning"  # torch's default
    text = str(report)
    assert "Trainer" not in text
    assert "accepts_loss_kwargs" not in text
    assert "its data and its collate_fn are not judged" in " ".join(text.split())
