"""Pipelines for two processes."""

from __future__ import annotations

import os
import signal
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


def one_rank_raises() -> Any:
    """The second process runs into an error in the middle of a step."""
    trainer = tiny_qwen3.repaired(**SETTINGS)
    compute_loss = trainer.compute_loss

    def broken(*args: Any, **kwargs: Any) -> Any:
        if trainer.args.process_index == 1:
            raise ValueError("no room for this batch")
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = broken
    return trainer


def one_rank_dies() -> Any:
    """The second process is killed in the middle of a step, as for want of memory."""
    trainer = tiny_qwen3.repaired(**SETTINGS)
    compute_loss = trainer.compute_loss

    def killed(*args: Any, **kwargs: Any) -> Any:
        if trainer.args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = killed
    return trainer
