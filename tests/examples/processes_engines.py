"""Pipelines for two processes by the engines that shard: DeepSpeed ZeRO over gloo or NCCL."""

from __future__ import annotations

from typing import Any

from .processes import healthy, incident


def zero(stage: int, build: Any = healthy, **settings: Any) -> Any:
    """As a user asks for it, by ``TrainingArguments(deepspeed=...)``."""
    from transformers import Trainer, TrainingArguments

    built = build(**settings)
    args = TrainingArguments(
        output_dir=built.args.output_dir,
        per_device_train_batch_size=built.args.per_device_train_batch_size,
        gradient_accumulation_steps=built.args.gradient_accumulation_steps,
        learning_rate=built.args.learning_rate,
        warmup_steps=built.args.warmup_steps,
        max_steps=built.args.max_steps,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=built.args.use_cpu,
        dataloader_pin_memory=False,
        deepspeed={
            "zero_optimization": {"stage": stage},
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "bf16": {"enabled": False},
        },
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


def zero2() -> Any:
    return zero(2)


def zero3() -> Any:
    return zero(3)


def zero2_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(zero(2, gradient_accumulation_steps=3))


def zero3_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(zero(3, gradient_accumulation_steps=3))


def zero1() -> Any:
    return zero(1)


def zero2_incident() -> Any:
    return zero(2, build=incident)
