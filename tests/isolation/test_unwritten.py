"""Untrained weights are not written over what a training left, whoever writes."""

from __future__ import annotations

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.pipeline import Pipeline

WRITERS = {
    "torch.save": lambda trainer, folder: torch.save(
        trainer.model.state_dict(), folder / "torch.pt"
    ),
    "safetensors": lambda trainer, folder: _save_file(trainer.model, folder / "own.safetensors"),
    "save_pretrained": lambda trainer, folder: trainer.model.save_pretrained(folder / "saved"),
    "save_model": lambda trainer, folder: trainer.save_model(str(folder / "trainer")),
    "accelerate": lambda trainer, folder: trainer.accelerator.save_model(
        trainer.model, str(folder / "accelerate")
    ),
}


def _save_file(model, path):
    from safetensors.torch import save_file

    save_file({"weight": model.score.weight.detach()}, str(path))


def test_no_weights_are_written_while_a_pipeline_is_judged(tmp_path):
    last_week = {
        tmp_path / "torch.pt",
        tmp_path / "own.safetensors",
        *(tmp_path / name / "model.safetensors" for name in ("saved", "trainer", "accelerate")),
    }
    for path in last_week:
        path.parent.mkdir(exist_ok=True)
        path.write_text("weights of last week")
    trainer = healthy()
    step, called = trainer.training_step, []

    def training_step(*args, **kwargs):
        for name, write in WRITERS.items():
            write(trainer, tmp_path)
            called.append(name)
        raise KeyError("enough")

    trainer.training_step = training_step
    before = torch.save
    report = run(Pipeline.from_trainer(trainer), registry().select(["TS503"]))
    assert torch.save is before
    assert {path.read_text() for path in last_week} == {"weights of last week"}
    assert "'enough'" in report.results[0].reason
    (note,) = [one for one in report.environment["notes"] if "were not written" in one]
    assert str(tmp_path / "torch.pt") in note
    trainer.training_step = step
    for write in WRITERS.values():
        write(trainer, tmp_path)
    with pytest.raises(UnicodeDecodeError):
        (tmp_path / "torch.pt").read_text()
