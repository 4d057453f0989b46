"""Which parameters are new, and which of them would be saved."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.pipeline import is_adapted, unwrapped
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


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
    new, added = [], added_by_peft(model) if adapted else set()
    for name, _ in model.named_parameters():
        if ".original_module." in name:  # PEFT keeps it beside the copy that is trained
            continue
        plain = plain_name(name, added) if adapted else name
        adapter = adapted and plain is None
        if adapter or (plain and known and _is_new_head(plain, known, prefix)):
            new.append(name)
    saved = {tensor.data_ptr() for tensor in _saved(model, adapted).values()}
    unsaved = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.data_ptr() not in saved
    ]
    return Origin(str(checkpoint) if checkpoint else None, new, unsaved)


def _is_new_head(name: str, known: set[str], prefix: str) -> bool:
    """Outside the base model and not in the file.

    Inside, names may have been converted on loading; there, what is missing is another question.
    """
    return name not in known and not (prefix and name.startswith(prefix + "."))


def plain_name(name: str, added: set[str]) -> str | None:
    """A parameter's name before PEFT wrapped its module; None for one that PEFT added."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    before, mark, after = name.partition(".modules_to_save.")
    if mark:
        return f"{before}.{after.partition('.')[2]}"
    return None if added & set(name.split(".")) else name


def added_by_peft(model: Any) -> set[str]:
    """What PEFT's layers call the parts that they add."""
    return {
        name
        for module in model.modules()
        for kind in ("adapter_layer_names", "other_param_names")
        for name in getattr(module, kind, ())
    }


def checkpoint_folder(config: Any) -> Path | None:
    """The checkpoint's folder: as it was given, or in the hub's cache.  Nothing is fetched."""
    source = getattr(config, "_name_or_path", "") or ""
    if not source:
        return None
    if os.path.isdir(source):
        return Path(source) if any(Path(source).glob("*.safetensors")) else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in ("model.safetensors", "model.safetensors.index.json"):
        try:
            found = try_to_load_from_cache(source, name)
        except HFValidationError:  # a path that is gone, not a hub id
            return None
        if isinstance(found, str):
            return Path(found).parent
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
    """What ``save_pretrained`` writes, as references to the model's own tensors."""
    if adapted:
        from peft import get_peft_model_state_dict

        # Whether the vocabulary grew would be looked up on the hub.
        saved: dict[str, Any] = get_peft_model_state_dict(model, save_embedding_layers=False)
        return saved
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    return {name: t for name, t in model.state_dict().items() if name not in ignored}
