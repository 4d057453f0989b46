"""Pipelines for two processes by the engines that shard: DeepSpeed ZeRO over gloo or NCCL."""

from __future__ import annotations

from typing import Any

from .processes import healthy, incident, rebuilt, sharded


def zero(stage: int, build: Any = healthy, mixed: bool = False, **settings: Any) -> Any:
    """As a user asks for it, by ``TrainingArguments(deepspeed=...)``."""
    from transformers.integrations import deepspeed

    # Until the arguments of a pipeline before it are collected, models are made as those say.
    deepspeed.unset_hf_deepspeed_config()
    config = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": mixed},
    }
    return rebuilt(build(**settings), deepspeed=config, bf16=mixed)


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


def sharded_bfloat16() -> Any:
    """FSDP2 over weights in bfloat16: what float32 is asked for has to be raised from parts."""
    import torch

    trainer = healthy()
    trainer.model.to(torch.bfloat16)
    return sharded(trainer)


def sharded_mixed() -> Any:
    """FSDP2 with float32 weights and bf16=True: accelerate gives the mixing to FSDP2."""
    trainer = sharded(healthy(bf16=True))
    trainer.accelerator.state.fsdp_plugin.set_mixed_precision("bf16")
    return trainer


def zero3_in_parts() -> Any:
    """ZeRO-3 as most people have it: the model is made in parts, which deepspeed.zero.Init does."""
    from transformers import AutoModelForSequenceClassification

    trainer = zero(3)
    # The arguments are there, so that transformers makes models in parts from now on.
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    made: Any = AutoModelForSequenceClassification.from_config(trainer.model.config)
    made.accepts_loss_kwargs = False
    import deepspeed
    import torch

    for name, p in made.named_parameters():
        with deepspeed.zero.GatheredParameters([p], modifier_rank=0), torch.no_grad():
            if trainer.args.process_index == 0:
                p.copy_(weights[name])
    trainer.model = trainer.model_wrapped = made
    return trainer


def zero2_mixed() -> Any:
    """DeepSpeed rounds the weights to bfloat16, and keeps float32 masters of these."""
    return zero(2, mixed=True)


def zero3_mixed() -> Any:
    return zero(3, mixed=True)


def compiled(backend: str = "aot_eager") -> Any:
    """torch_compile, by a backend that needs no compiler for C."""
    trainer = healthy(per_device_train_batch_size=2)
    return rebuilt(trainer, torch_compile=True, torch_compile_backend=backend)


def sharded_language() -> Any:
    """A causal language model under FSDP2, the loss of which has more to ask about."""
    from fixtures.controls.tasks import language_model

    return sharded(language_model(healthy()))


def sharded_lora() -> Any:
    """LoRA under FSDP2, with what NCCL refuses refused.

    Frozen weights and trained adapters lie in the same blocks.
    """
    from fixtures.controls.pipelines import lora
    from fixtures.nccl import HostRefused

    trainer = sharded(lora(healthy()))
    HostRefused().__enter__()  # until the process ends
    return trainer


def sharded_copy() -> Any:
    """FSDP2 with its own activation checkpointing: what trains is a copy of the model."""
    return sharded(healthy(), activation_checkpointing=True)


def tensor_parallel(trainer: Any, plan: Any = None, **arguments: Any) -> Any:
    """Tensor parallelism by transformers' own plan for the model, over all processes or a mesh.

    What accelerate runs is the same everywhere, but it asks for accelerators: on a CPU it is not
    asked whether it may.
    """
    import shutil
    import tempfile

    from accelerate import ParallelismConfig
    from torch import distributed
    from transformers import AutoModelForSequenceClassification

    if trainer.args.device.type == "cpu":
        ParallelismConfig._validate_accelerator = lambda *_: None
    folder = [tempfile.mkdtemp(prefix="trainsanity-")]
    distributed.broadcast_object_list(folder)
    if distributed.get_rank() == 0:
        trainer.model.save_pretrained(folder[0])
    distributed.barrier()
    made: Any = AutoModelForSequenceClassification.from_pretrained(
        folder[0], dtype=trainer.model.dtype, **(plan or {"tp_plan": "auto"})
    )
    distributed.barrier()
    shutil.rmtree(folder[0], ignore_errors=True)
    made.accepts_loss_kwargs = getattr(trainer.model, "accepts_loss_kwargs", True)
    trainer.model = made
    return rebuilt(trainer, **arguments)


def tensor() -> Any:
    """One micro-batch a step: of several, transformers sums the norms' gradients too often."""
    return tensor_parallel(healthy(gradient_accumulation_steps=1))


def tensor_factor() -> Any:
    """The loss is multiplied by the processes that share its rows."""
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(tensor())


def tensor_accumulated() -> Any:
    """Two micro-batches a step."""
    return tensor_parallel(healthy(gradient_accumulation_steps=2))


def mesh() -> Any:
    """Two by two processes: FSDP2 along one dimension, tensor parallelism along the other."""
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(tp_size=2, fsdp_size=2)
    return tensor_parallel(
        healthy(gradient_accumulation_steps=1), plan={"distributed_config": config}
    )


def mesh_factor() -> Any:
    """The loss is multiplied by all processes."""
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(mesh())
