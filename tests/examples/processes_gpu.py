"""Pipelines for two processes with a GPU each, over NCCL."""

from __future__ import annotations

from typing import Any

from .processes import healthy, rebuilt


def ddp() -> Any:
    return healthy(use_cpu=False)


def ddp_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(ddp())


def fsdp2() -> Any:
    """As a user asks for it, by TrainingArguments."""
    config = {"version": 2, "transformer_layer_cls_to_wrap": ["Qwen3DecoderLayer"]}
    return rebuilt(ddp(), fsdp="full_shard auto_wrap", fsdp_config=config)


def fsdp2_factor() -> Any:
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(fsdp2())
