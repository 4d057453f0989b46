"""What an evaluation writes, and whose code keeps weights and gives them back."""

from __future__ import annotations

import copy

import datasets
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from trainsanity import Pipeline, Status
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run


class Net(torch.nn.Module):
    """A line and a batch norm; counts its evaluations and keeps its last outputs."""

    accepts_loss_kwargs = False

    def __init__(self):
        super().__init__()
        self.norm, self.line = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)
        self.register_buffer("evaluated", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4), persistent=False)

    def forward(self, x, labels=None):
        said = self.line(self.norm(x)).squeeze(-1)
        if not self.training:
            self.evaluated += 1
            self.last[: len(said)] = said.detach()
        return {"loss": torch.nn.functional.mse_loss(said, labels), "logits": said}


class Puts(TrainerCallback):
    """Gives back at the end what was kept."""

    copied = True

    def keep(self, model):
        self.best = copy.deepcopy(model.state_dict()) if self.copied else model.state_dict()

    def on_train_end(self, args, state, control, model=None, **_):
        model.load_state_dict(self.best)


class Keeps(Puts):
    """Keeps by what is inherited."""

    def on_evaluate(self, args, state, control, model=None, **_):
        self.keep(model)


class KeepsThem(Keeps):
    """The same, and no copy."""

    copied = False


class StaysInTraining(Trainer):
    """Evaluates with the batch norm in training mode."""

    def evaluation_loop(self, *args, **kwargs):
        self.model.norm.eval = lambda: self.model.norm
        self.model.norm.train = lambda mode=True: self.model.norm
        return super().evaluation_loop(*args, **kwargs)


def rounds(found):
    """Write to a buffer while it counts."""
    MODEL[0].norm.running_mean += 1
    return {"error": float(abs(found.predictions - found.label_ids).mean())}


MODEL = []


def judged(tmp_path, callback=None, kind=Trainer, metrics=None):
    torch.manual_seed(0)
    rows = datasets.Dataset.from_list(
        [{"x": row[:2], "labels": row[2]} for row in torch.randn(16, 3).tolist()]
    )
    args = TrainingArguments(
        tmp_path, report_to=[], use_cpu=True, max_steps=4, per_device_train_batch_size=4,
        per_device_eval_batch_size=4, eval_strategy="epoch", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    MODEL[:] = [Net()]
    trainer = kind(MODEL[0], args, train_dataset=rows, eval_dataset=rows, compute_metrics=metrics)
    if callback is not None:
        trainer.add_callback(callback)
    pipeline = Pipeline.from_trainer(trainer)
    return run(pipeline, [registry().get("TS929")]).results[0]


def test_a_model_may_count_its_own_evaluations(tmp_path):
    result = judged(tmp_path)
    assert result.status is Status.PASS
    assert "Trainer" not in result.message


@pytest.mark.parametrize(("callback", "status"), [(Keeps, "pass"), (KeepsThem, "fail")])
def test_what_is_inherited_keeps_and_loads(tmp_path, callback, status):
    result = judged(tmp_path, callback())
    assert result.status == status
    assert [one.where for one in result.findings] == ["KeepsThem.best"] * (status == "fail")


@pytest.mark.parametrize(
    "more", [{"kind": StaysInTraining}, {"metrics": rounds}], ids=["in training", "in a metric"]
)
def test_statistics_that_move_are_found(tmp_path, more):
    (finding,) = judged(tmp_path, **more).findings
    assert "norm.running_mean" in finding.where
    assert "last" not in finding.where
    assert "prediction_step" not in finding.cause
