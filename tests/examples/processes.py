"""Pipelines for two processes."""

from __future__ import annotations

import os
import signal
from typing import Any

from fixtures.pipelines import tiny_qwen3

SETTINGS: dict[str, Any] = {"rows": 300, "gradient_accumulation_steps": 2}


def healthy(**settings: Any) -> Any:
    from accelerate.state import AcceleratorState

    # Several are built in one process, one after the other.
    AcceleratorState._reset_state(reset_partial_state=True)
    return tiny_qwen3.repaired(**{**SETTINGS, **settings})


def rebuilt(built: Any, **arguments: Any) -> Any:
    """The same Trainer with other arguments, as one that asks for an engine by them."""
    from transformers import Trainer, TrainingArguments

    same = (
        "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
        "warmup_steps", "max_steps", "max_grad_norm", "use_cpu", "bf16", "dataloader_pin_memory",
    )  # fmt: skip
    args = TrainingArguments(
        **{name: getattr(built.args, name) for name in same} | arguments,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(
        model=built.model,
        args=args,
        train_dataset=built.train_dataset,
        eval_dataset=built.eval_dataset,
        data_collator=built.data_collator,
        processing_class=built.processing_class,
    )
    trainer.kept = built  # type: ignore[attr-defined]  # whose folder is removed with it
    return trainer


def cheap() -> Any:
    return healthy(per_device_train_batch_size=2)


def evaluated_by_all() -> Any:
    """An evaluation of its own that knows of the rows which fill up the last round."""
    from fixtures.faults.loop_ranks import evaluated

    return evaluated(healthy(), lambda self, each: self.accelerator.gather_for_metrics(each))


def evaluated_by_super() -> Any:
    """An ``evaluate`` of its own that adds a number to what the Trainer's returns."""
    from fixtures.faults import subclassed

    trainer = healthy(per_device_train_batch_size=2)
    theirs = type(trainer)

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = theirs.evaluate(self, *args, **kwargs)
        return {**metrics, "eval_perplexity": 2.718281828 ** metrics["eval_loss"]}

    return subclassed(trainer, evaluate=evaluate)


def incident() -> Any:
    return tiny_qwen3.incident(**SETTINGS)


def sharded(trainer: Any, **plugin: Any) -> Any:
    """FSDP2 by accelerate, on the CPU.

    What it runs is the same everywhere, but it turns it on for accelerators only: on a CPU
    ``TrainingArguments(fsdp=...)`` trains with DistributedDataParallel, and nobody is told.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = trainer.accelerator.state
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen3DecoderLayer"],
        **{"cpu_ram_efficient_loading": False, **plugin},
    )
    for shared in (state.__dict__, PartialState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True
    return trainer


def sharded_healthy() -> Any:
    return sharded(healthy())


def sharded_and_loaded_by_one() -> Any:
    """As ``accelerate launch`` has it: the other processes hold memory that nobody wrote to."""
    trainer = sharded(healthy(), cpu_ram_efficient_loading=True)
    if trainer.args.process_index:
        for parameter in trainer.model.parameters():
            parameter.data.fill_(float("nan"))
    return trainer


def sharded_factor() -> Any:
    """As :func:`incident` on every version: the Trainer believes in a count that is ignored."""
    from fixtures.faults.loss import multiplied_by_processes

    return sharded(multiplied_by_processes(healthy(gradient_accumulation_steps=3)))


def other_heads() -> Any:
    """Each process draws a head of its own, and DistributedDataParallel sends the first's round."""
    import torch

    trainer = healthy()
    torch.nn.init.normal_(
        trainer.model.score.weight,
        std=0.02,
        generator=torch.Generator().manual_seed(trainer.args.process_index),
    )
    return trainer


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
    from trainsanity.engine import processes

    processes.PATIENCE = 5.0  # the first is in a collective operation, however long one waits
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
