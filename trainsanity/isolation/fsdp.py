"""Models that FSDP shards, and the copy that is sharded in their place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.collectives import overwritten_from_zero
from trainsanity.isolation.shards import in_parts, made_in_parts
from trainsanity.isolation.zero import zero_stage
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def fsdp(pipeline: Pipeline) -> bool:
    """Return whether the Trainer shards the model when it begins to train or to evaluate."""
    return bool(getattr(pipeline.trainer, "is_fsdp_enabled", False))


def beside_model(pipeline: Pipeline, inputs: Any) -> Any:
    """Return the batch on the model's device: a model to be sharded waits on the CPU."""
    waits = fsdp(pipeline) or zero_stage(pipeline.trainer) is not None
    if not waits or not isinstance(inputs, Mapping):
        return inputs
    return {
        name: value.to(pipeline.device) if hasattr(value, "to") else value
        for name, value in inputs.items()
    }


def refuse_sharded(pipeline: Pipeline) -> None:
    """Refuse to run steps on a model that training shards.

    Raises:
        Skip: FSDP or DeepSpeed is enabled: the weights that the run would read and write are parts.
    """
    if fsdp(pipeline):
        raise Skip("FSDP2 shards the model when it trains: judged without it, in one process")
    if zero_stage(pipeline.trainer) is not None:
        raise Skip(
            "DeepSpeed takes the model over when it trains: judged without it, in one process"
        )


def prepared(trainer: Any) -> str:
    """Shard or move the model as ``train()`` will, for it to be judged where it is trained.

    accelerate shards it, and finds a model that is sharded already when training begins.  FSDP2
    replaces parameters and classes for good, so that the model stays so.

    Returns:
        A sentence for the report; empty if nothing was done.
    """
    if zero_stage(trainer) is not None and not made_in_parts(trainer.model):
        device = trainer.args.device
        if device.type == "cpu" or next(trainer.model.parameters()).device == device:
            return ""
        trainer.model.to(device)
        return f"DeepSpeed's model was moved to {device} before it was judged, as train() does"
    if not _can_be_prepared(trainer):
        return ""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    fsdp2_prepare_model(trainer.accelerator, trainer.model)
    return (
        f"FSDP2 has sharded the model over {trainer.args.world_size} processes before it was "
        "judged, as train() does; it stays sharded"
    )


def _can_be_prepared(trainer: Any) -> bool:
    """Return whether the model can be sharded before ``train()``, and be found so by it."""
    from importlib import util

    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if (
        plugin is None
        or getattr(plugin, "fsdp_version", 1) != 2
        or trainer.optimizer is not None
        or getattr(trainer, "ref_model", None) is not None  # which is sharded beside the policy
        or plugin.activation_checkpointing  # which train() would put around each block once more
        or type(plugin.cpu_offload).__name__
        == "CPUOffloadPolicy"  # what is kept on the host cannot be gathered by NCCL
        or trainer.args.torch_compile
        or not util.find_spec("accelerate.utils.fsdp_utils")
    ):
        return False
    processes = trainer.args.world_size
    # The optimizer's parameters are found again by where their memory begins: an empty part has
    # none of its own.
    rows = {len(p) for p in trainer.model.parameters() if p.dim()}
    return all(
        type(p.data).__name__ == "Tensor" and p.dim() for p in trainer.model.parameters()
    ) and all((processes - 1) * -(-n // processes) < n for n in rows)


def complete(trainer: Any) -> None:
    """Broadcast the weights from rank 0 to all processes.

    With ``cpu_ram_efficient_loading`` only rank 0 reads the checkpoint; the other processes hold
    uninitialised memory until training begins.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if not getattr(plugin, "cpu_ram_efficient_loading", False) or trainer.args.world_size < 2:
        return
    overwritten_from_zero((*trainer.model.parameters(), *trainer.model.buffers()))


@contextmanager
def training_copy(pipeline: Pipeline) -> Iterator[Pipeline]:
    """Yield the pipeline to call ``train()`` on: itself, or under FSDP2 one with a copied model.

    FSDP2 replaces the model's parameters and classes for good, where :func:`prepared` has not.

    Raises:
        Skip: FSDP1, whose flat parameters have no names, or an optimizer that knows the original.
    """
    from trainsanity.isolation.snapshot import preserved

    trainer = pipeline.trainer
    if not fsdp(pipeline) or in_parts(pipeline.model):
        yield pipeline
        return
    if getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1) == 1:
        raise Skip("FSDP1 flattens the parameters: ask for fsdp_version 2 to have them judged")
    if trainer.optimizer is not None:
        raise Skip("FSDP2 shards a copy of the model here, and the user's optimizer has the model")
    with preserved(pipeline):
        trainer.model = trainer.model_wrapped = copy.deepcopy(trainer.model)
        yield dataclasses.replace(pipeline, model=trainer.model)
