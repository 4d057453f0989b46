"""Which parameters are new, and which of them would be saved."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.data.stored_files import stored_file
from trainsanity.pipeline import active_adapters, is_adapted, unwrapped
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


WRAPPERS = frozenset({"base_layer", "original_module", "token_adapter"})
"""PEFT's name for a layer of the base model that it wrapped."""


@dataclass(frozen=True)
class Origin:
    """Where the parameters come from and where they go.

    Attributes:
        checkpoint: the folder whose weights the model was loaded from; None if there is none on
            this machine, so that nothing outside an adapter is known to be new.
        new: parameters that the checkpoint does not have: the head's, an adapter's.
        unsaved: trainable parameters that ``save_pretrained`` leaves out.
    """

    checkpoint: str | None
    new: list[str]
    unsaved: list[str]


@measurement(Cost.STATIC)
def origin(pipeline: Pipeline) -> Origin:
    """Compare the model's parameters with its checkpoint's names and with what it saves."""
    model = pipeline.model
    adapted, base = is_adapted(model), unwrapped(model)
    checkpoint = checkpoint_folder(getattr(base, "config", None))
    known = tensor_names(checkpoint) if checkpoint else None
    prefix = getattr(base, "base_model_prefix", "")
    added = added_by_peft(model) if adapted else set()
    inside: dict[int, list[str]] = {}  # a tied one has several names
    for name, parameter in base.named_parameters(remove_duplicate=False):
        inside.setdefault(id(parameter), []).append(name)
    resting = _resting(model, added) if adapted else set()
    if known:
        known |= {name for one in inside.values() for name in one if _is_of_a_part(name, known)}
        known |= _of_other_parts(base)
    new = []
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT keeps it beside the copy that is trained
            continue
        # A prompt's encoder lies beside the base model.
        plain = [plain_name(one, added) for one in inside.get(id(parameter), ())]
        by_peft = all(one is None for one in plain)
        of_head = known and all(one and _is_new_head(one, known, prefix) for one in plain)
        if name not in resting and (by_peft or of_head):
            new.append(name)
    saved = {tensor.data_ptr() for tensor in _saved(model, adapted).values()}
    unsaved = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad
        and p.data_ptr() not in saved
        # What is saved of a prompt's encoder is what it makes.
        and not (adapted and name.startswith("prompt_encoder."))
    ]
    return Origin(str(checkpoint) if checkpoint else None, new, unsaved)


def _resting(model: Any, added: set[str]) -> set[str]:
    """Return the parameters of adapters that need not be trained now.

    Those of an adapter that is not active: another's turn, or a reference to compare with.  And
    frozen ones where something of an active adapter is trained: one that was trained before lies
    below, or a random A is kept as it was drawn.  A new head has to be trained in any case.
    """
    active = set(active_adapters(model))
    adapters = {
        name: adapter
        for name, _ in model.named_parameters()
        for adapter in [adapter_of(name, model.peft_config, added)]
        if adapter is not None
    }
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    learns = any(adapters.get(name) in active for name in trainable)
    return {
        name
        for name, adapter in adapters.items()
        if adapter not in active
        or (learns and name not in trainable and ".modules_to_save." not in name)
    }


def adapter_of(name: str, adapters: Collection[str], added: set[str]) -> str | None:
    """Return the name of the adapter that a parameter belongs to; None for the base model's."""
    parts = name.split(".")
    kinds = added | {"modules_to_save", "prompt_encoder"}
    for kind, adapter in itertools.pairwise(parts):
        if kind in kinds and adapter in adapters:
            return adapter
    return None


def _is_of_a_part(name: str, known: set[str]) -> bool:
    """Return whether a name is one of the checkpoint's below an attribute of one's own.

    ``language.model.embed_tokens.weight``: the checkpoint's model is a part of another one.
    """
    _, _, rest = name.partition(".")
    while "." in rest:
        if rest in known:
            return True
        _, _, rest = rest.partition(".")
    return False


def _of_other_parts(base: Any) -> set[str]:
    """Return the names of parameters in parts that were loaded from somewhere else.

    A part with a ``config`` that names a checkpoint of its own, or one that holds a norm which was
    trained: nothing draws the weights of a norm, or what it has counted.
    """
    own = getattr(getattr(base, "config", None), "_name_or_path", "")
    found: set[str] = set()
    for name, part in base.named_modules():
        if not name:
            continue
        source = getattr(getattr(part, "config", None), "_name_or_path", "")
        elsewhere = bool(source) and source != own
        if elsewhere or ("." not in name and _was_trained(part)):
            found.update(f"{name}.{one}" for one, _ in part.named_parameters())
    return found


def _was_trained(part: Any) -> bool:
    """Return whether a norm inside has weights that differ, or has counted batches."""
    for module in part.modules():
        weight = getattr(module, "weight", None)
        if "Norm" not in type(module).__name__ or weight is None or weight.dim() != 1:
            continue
        if weight.is_meta:  # offloaded: what is in it is not here
            continue
        counted = getattr(module, "num_batches_tracked", None)
        if (counted is not None and int(counted) > 0) or bool((weight != weight[0]).any()):
            return True
    return False


def _is_new_head(name: str, known: set[str], prefix: str) -> bool:
    """Outside the base model and not in the file.

    Inside, names may have been converted on loading; there, what is missing is another question.
    """
    return name not in known and not (prefix and name.startswith(prefix + "."))


def plain_name(name: str, added: set[str]) -> str | None:
    """Return a parameter's name before PEFT wrapped its module; None for one that PEFT added.

    Args:
        name: in the base model.
        added: see :func:`added_by_peft`.
    """
    before, mark, after = name.partition(".modules_to_save.")
    if mark:
        name = f"{before}.{after.partition('.')[2]}"
    parts = name.split(".")
    if added & set(parts):
        return None
    return ".".join(
        part
        for above, part in zip(["", *parts], parts, strict=False)
        if part not in WRAPPERS and f"{above}.{part}" not in added
    )


def added_by_peft(model: Any) -> set[str]:
    """Return the names that PEFT's layers give to the parts that they add.

    A layer that lists none, as LLaMA-Adapter's attention, has its parameters beside the module that
    it wraps; that module's name is there with the layer's before it (``self_attn.model``).
    """
    found: set[str] = set()
    for place, module in model.named_modules():
        for kind in ("adapter_layer_names", "other_param_names"):
            found.update(getattr(module, kind, ()))
        if type(module).__module__.startswith("peft.") and "model" in module._modules:
            own = [name for name, _ in module.named_parameters(recurse=False)]
            found.update([*own, f"{place.rpartition('.')[2]}.model"] if own else ())
    return found


def checkpoint_folder(config: Any) -> Path | None:
    """The checkpoint's folder: as it was given, or in the hub's cache.  Nothing is fetched."""
    source = getattr(config, "_name_or_path", "") or ""
    if not source:
        return None
    if os.path.isdir(source):
        return Path(source) if any(Path(source).glob("*.safetensors")) else None
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (found := stored_file(source, name)) is not None:
            return found.parent
    return None


def tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in a folder's safetensors files, from their headers alone."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text())["weight_map"])
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            names |= set(tensors.keys())
    return names


def _saved(model: Any, adapted: bool) -> dict[str, Any]:
    """Return the tensors that ``save_pretrained`` writes, as references to the model's own."""
    if adapted:
        from peft import get_peft_model_state_dict

        saved: dict[str, Any] = {}
        for adapter in model.peft_config:  # each goes to a folder of its own
            # Whether the vocabulary grew would be looked up on the hub.
            one = get_peft_model_state_dict(
                model, adapter_name=adapter, save_embedding_layers=False
            )
            saved |= {f"{adapter}.{name}": tensor for name, tensor in one.items()}
        return saved
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    return {name: t for name, t in model.state_dict().items() if name not in ignored}
