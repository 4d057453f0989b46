"""Tensors that policy and reference have in common, by storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.measurements.step.passes import inner
from trainsanity.measurements.step.policy_passes import references_of

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def trained_tensors(pipeline: Pipeline) -> set[Any]:
    """Return the places of what the model trains, and of what the optimizer holds."""
    optimizer = pipeline.optimizer or getattr(pipeline.trainer, "optimizer", None)
    own = [p for p in inner(pipeline.model).parameters() if p.requires_grad]
    trained = {_place(p) for p in own if p.numel()}
    held = {
        _place(p)
        for group in getattr(optimizer, "param_groups", ())
        for p in group["params"]
        if p.requires_grad and p.numel()
    }
    return trained | held


def shared_with_reference(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return for each model that is called a reference which of its tensors are trained."""
    named = references_of(pipeline.trainer, pipeline.train_step)
    if not named:
        return {}
    trained = trained_tensors(pipeline)
    shared = {
        called: [name for name, p in model.named_parameters() if p.numel() and _place(p) in trained]
        for called, model in named.items()
    }
    return {called: names for called, names in shared.items() if names}


def beside_the_adapter(policy: Any) -> list[str]:
    """Return trainable parameters that stay in use when PEFT's adapter is turned off."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import other

    wrapper: Any = getattr(other, "AuxiliaryTrainingWrapper", other.ModulesToSaveWrapper)
    kinds: tuple[Any, ...] = (BaseTunerLayer, wrapper)
    inside: set[int] = set()
    module: Any
    for module in policy.modules():
        if isinstance(module, kinds):
            base = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
            originals = {id(p) for p in base.parameters()} if base is not None else set()
            layer: Any = module
            inside |= {id(p) for p in layer.parameters()} - originals
    return [
        name
        for name, p in policy.named_parameters()
        # Prompt tuning keeps its own beside the layers.
        if p.requires_grad and id(p) not in inside and not name.startswith("prompt_encoder.")
    ]


def _place(p: Any) -> Any:
    """Return where a tensor lies in memory; one that lies nowhere is itself."""
    storage = p.untyped_storage() if hasattr(p, "untyped_storage") else None
    address = storage.data_ptr() if storage is not None else 0
    return (address, p.storage_offset()) if address else id(p)
