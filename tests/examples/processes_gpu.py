"""Pipelines for two processes with a GPU each, over NCCL."""

from __future__ import annotations

from typing import Any

from .processes import SETTINGS, healthy


def ddp() -> Any:
    return healthy(use_cpu=False)


def ddp_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(ddp())


def fsdp2() -> Any:
    """As a user asks for it, by TrainingArguments."""
    from transformers import Trainer, TrainingArguments

    built = ddp()
    args = TrainingArguments(
        output_dir=built.args.output_dir,
        per_device_train_batch_size=built.args.per_device_train_batch_size,
        gradient_accumulation_steps=SETTINGS["gradient_accumulation_steps"],
        learning_rate=built.args.learning_rate,
        warmup_steps=built.args.warmup_steps,
        max_steps=built.args.max_steps,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        fsdp="full_shard auto_wrap",
        fsdp_config={"version": 2, "transformer_layer_cls_to_wrap": ["Qwen3DecoderLayer"]},
    )
    trainer = Trainer(
        model=built.model,
        args=args,
        train_dataset=built.train_dataset,
        eval_dataset=built.eval_dataset,
        data_collator=built.data_collator,
        processing_class=built.processing_class,
    )
    trainer.kept = built  # whose folder is removed with it
    return trainer


def fsdp2_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(fsdp2())
