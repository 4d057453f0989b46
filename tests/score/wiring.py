"""What the peers are given: they know models and steps, not Trainers.

Everything that a Trainer does before its first step is done first, so that no peer stumbles over
what is no fault: special tokens are aligned, the batch is one that the Trainer's own loader makes.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import trainer_utils

from .subjects import Subject


def trainer_of(subject: Subject) -> Any:
    """The Trainer as ``train()`` finds it, on the CPU."""
    trainer = subject.build()
    if trainer.processing_class is not None:
        trainer_utils.align_special_tokens(trainer.model, trainer.processing_class)
    if getattr(trainer.args, "activation_checkpointing", False):
        trainer.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=trainer.args.activation_checkpointing_kwargs
        )
    # Autocast is a wrapper that accelerate puts around the model's forward.
    trainer.model_wrapped = trainer.accelerator.prepare_model(trainer.model)
    # Peers compare rows of a batch with each other.
    trainer._train_batch_size = max(2, trainer._train_batch_size)
    return trainer


def first_batch(trainer: Any) -> dict[str, Any]:
    """The first micro-batch of the Trainer's own loader, an even number of rows of it."""
    batch = dict(next(iter(trainer.get_train_dataloader())))
    rows = len(batch["input_ids"]) // 2 * 2
    return {name: value[:rows] for name, value in batch.items()} if rows else batch


def without_labels(batch: dict[str, Any]) -> dict[str, Any]:
    """What a model is given for inference."""
    return {name: value for name, value in batch.items() if name != "labels"}


def optimizer_of(trainer: Any) -> Any:
    """The one that it trains with."""
    trainer.create_optimizer_and_scheduler(num_training_steps=trainer.args.max_steps)
    return trainer.optimizer


def counted(trainer: Any, micros: list[dict[str, Any]]) -> Any:
    """``num_items_in_batch`` as the Trainer counts it for these micro-batches."""
    _, items = trainer.get_batch_samples(iter(micros), len(micros), torch.device("cpu"))
    return items


def is_wide(trainer: Any) -> bool:
    """Whether each token has logits over a whole vocabulary: a step takes seconds on a CPU."""
    return "CausalLM" in type(trainer.model).__name__


def is_single_label(trainer: Any, batch: dict[str, Any]) -> bool:
    """Whether its logits are those of one class a row."""
    labels = batch.get("labels")
    return labels is not None and labels.dim() == 1 and not labels.is_floating_point()
