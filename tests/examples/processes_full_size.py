"""The incident at full size by each engine, on as many GPUs as there are.

TRAINSANITY_GEOMETRY names the geometry of Qwen3 (``4B`` if it is not set), TRAINSANITY_SEED the
seed of weights and data.
"""

from __future__ import annotations

import os
from typing import Any

from fixtures.pipelines import qwen3_4b

from .processes import rebuilt
from .processes_engines import tensor_parallel

TOGETHER = 12
"""Micro-batches of one step, over all processes, as in the incident."""

GEOMETRIES = {
    "0.6B": {"hidden_size": 1_024, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3_072},
    "1.7B": {"hidden_size": 2_048, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 6_144},
    "4B": qwen3_4b.GEOMETRY,
    "14B": {"hidden_size": 5_120, "num_hidden_layers": 40, "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 17_408},
}  # fmt: skip


def _trainer(*, repair: bool = False, **options: Any) -> Any:
    import torch

    world = int(os.environ.get("WORLD_SIZE") or 1)
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
    geometry = GEOMETRIES[os.environ.get("TRAINSANITY_GEOMETRY", "4B")]
    seed = int(os.environ.get("TRAINSANITY_SEED") or 0)
    settings = {"gradient_accumulation_steps": TOGETHER // world, "seed": seed, **options}
    return qwen3_4b.pipeline(repair=repair, geometry=geometry, **settings).trainer


def ddp() -> Any:
    return _trainer()


def ddp_repaired() -> Any:
    return _trainer(repair=True)


def _fsdp2(trainer: Any, **arguments: Any) -> Any:
    config = {"version": 2, "transformer_layer_cls_to_wrap": ["Qwen3DecoderLayer"]}
    return rebuilt(trainer, fsdp="full_shard auto_wrap", fsdp_config=config, **arguments)


def fsdp2() -> Any:
    """float32 weights, bf16=True."""
    return _fsdp2(_trainer(dtype="float32", bf16=True))


def fsdp2_repaired() -> Any:
    return _fsdp2(_trainer(repair=True, dtype="float32", bf16=True))


def _zero(stage: int, trainer: Any) -> Any:
    config = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": True},
    }
    return rebuilt(trainer, deepspeed=config)


def zero2() -> Any:
    return _zero(2, _trainer())


def zero2_repaired() -> Any:
    return _zero(2, _trainer(repair=True))


def zero3() -> Any:
    return _zero(3, _trainer())


def zero3_repaired() -> Any:
    return _zero(3, _trainer(repair=True))


def tensor() -> Any:
    """Tensor parallelism over all processes, a micro-batch a step."""
    return tensor_parallel(_trainer(repair=True, gradient_accumulation_steps=1))


def tensor_times() -> Any:
    """The same, with a loss that is multiplied by the processes."""
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(tensor())


def mesh() -> Any:
    """Tensor parallelism in pairs of processes, and FSDP2 over the pairs."""
    from transformers.distributed import DistributedConfig

    pairs = int(os.environ["WORLD_SIZE"]) // 2
    trainer = _trainer(repair=True, gradient_accumulation_steps=1)
    config = DistributedConfig(tp_size=2, fsdp_size=pairs)
    return tensor_parallel(trainer, plan={"distributed_config": config})


def mesh_times() -> Any:
    """The same, with a loss that is multiplied by the processes."""
    from fixtures.faults.loss import multiplied_by_processes

    return multiplied_by_processes(mesh())


def fsdp2_bfloat16() -> Any:
    """All weights in bfloat16, as of a model of which no more fits; checkpointed, too."""
    trainer = _trainer(repair=True, bf16=False, per_device_train_batch_size=8)
    return _fsdp2(trainer, gradient_checkpointing=True)


def fsdp2_lora() -> Any:
    from peft import LoraConfig, get_peft_model

    trainer = _trainer(repair=True, per_device_train_batch_size=8)
    trainer.model = get_peft_model(trainer.model, LoraConfig(task_type="SEQ_CLS", r=16))
    trainer.model.accepts_loss_kwargs = False
    return _fsdp2(trainer, gradient_checkpointing=True)
