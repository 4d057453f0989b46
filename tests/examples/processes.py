"""Pipelines for two processes."""

from __future__ import annotations

from typing import Any

from fixtures.pipelines import tiny_qwen3

SETTINGS: dict[str, Any] = {"rows": 300, "gradient_accumulation_steps": 2}


def healthy() -> Any:
    return tiny_qwen3.repaired(**SETTINGS)


def incident() -> Any:
    return tiny_qwen3.incident(**SETTINGS)


def one_rank_is_nan() -> Any:
    """The second process's loss is not a number."""
    trainer = tiny_qwen3.repaired(**SETTINGS)
    compute_loss = trainer.compute_loss

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        return loss * float("nan") if trainer.args.process_index == 1 else loss

    trainer.compute_loss = broken
    return trainer
