"""Image classifiers under load_best_model_at_end: TS918 beside what torch itself says."""

from __future__ import annotations

import tempfile

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

import trainsanity
from fixtures.field import _pictures
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": _pictures.KINDS,
}
WINDOWS = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
    "num_labels": _pictures.KINDS,
}
MODELS = {"ViT": SIZES, "DeiT": SIZES, "Dinov2": SIZES, "Beit": SIZES, "Swin": WINDOWS}


def model(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    return getattr(transformers, f"{name}ForImageClassification")(config)


def trainer(name):
    args = TrainingArguments(
        tempfile.mkdtemp(prefix="trainsanity-"),
        per_device_train_batch_size=8,
        max_steps=20,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=10,
        save_steps=10,
        load_best_model_at_end=True,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    train, held_out = (_pictures.image_rows(_pictures.pictures(*of)) for of in ((32,), (16, 9)))
    return Trainer(model(name), args, train_dataset=train, eval_dataset=held_out)


def lost(name, folder):
    """Names that what is saved does not have, as torch tells where the Trainer would not ask."""
    one = model(name)
    one.save_pretrained(folder)
    return one.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys


@pytest.mark.parametrize("name", MODELS)
def test_what_is_lost_is_told(name, tmp_path):
    missing = lost(name, tmp_path)
    spec = trainsanity.PipelineSpec(name, lambda: trainer(name))
    checks = registry().select(["loop.load_is_whole"])
    [result] = spec.visit(lambda pipeline: run(pipeline, checks)).results
    if not missing:
        assert result.status is Status.PASS
        return
    assert result.status is Status.FAIL
    assert result.findings[0].headline.startswith(f"{len(missing)} of ")
    assert missing[0] in result.findings[0].where
