"""The model's weights beside the safetensors files of the checkpoint that its config names."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import shape_of, whole
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS
from trainsanity.measurements.model.checkpoint_tokens import has_another_vocabulary
from trainsanity.measurements.model.cut_weights import (
    Layers,
    layers_elsewhere,
    own_name,
    rows_are_taken,
)
from trainsanity.measurements.model.key_mapping import KeyMapping, map_keys
from trainsanity.measurements.model.origin import added_by_peft, checkpoint_folder, plain_name
from trainsanity.measurements.model.own_modules import OwnModules, own_modules
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.measurements.model.stored_tensors import (
    only_zeros_differ,
    share_that_differs,
    stored_tensors,
)
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth", "*.h5", "*.msgpack")
"""Files that weights come in.  Only the first are read: the others run code, or are converted."""


@dataclass(frozen=True)
class WeightsFiles:
    """The checkpoint against the model.

    Attributes:
        folder: where the files are.
        empty: the folder holds no weights at all.
        compared: parameters whose values were compared.
        differ: parameters with other values, and the share of the compared elements that differ.
        missing: parameters of the base model that the files do not have.
        unexpected: tensors of the base model in the files that the model does not have.
        shapes: parameters of the base model of another shape than in the files: the model's and
            the files'.
        resized: the same outside the base model: a head for other labels.
        new: parameters outside the base model that the files do not have, or of a part that this
            class has and the checkpoint's has not, as a pooler; embeddings that were drawn anew, or
            put in order, for another vocabulary than the checkpoint's.
        thinned: parameters that are the file's but for zeros, or for rows that are left out.
        layers: whole layers that are the file's at another place, or that are left out.
    """

    folder: str
    empty: bool
    compared: int
    differ: dict[str, float]
    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, tuple[list[int], list[int]]]
    resized: dict[str, tuple[list[int], list[int]]]
    new: list[str]
    thinned: list[str] = field(default_factory=list)
    layers: Layers = field(default_factory=Layers)


@dataclass(frozen=True)
class Loaded:
    """The library's model that the files were loaded into: the pipeline's own, or one inside it.

    Attributes:
        model: the ``PreTrainedModel``.
        parameters: by its own name before PEFT wrapped it; a tied one is there under each.
        mapping: the files' names and the model's.
        outside: names of parameters of what stands around it.
    """

    model: Any
    parameters: dict[str, Any]
    mapping: KeyMapping
    outside: list[str]

    @property
    def prefix(self) -> str:
        """The name of the base model inside, with a dot; empty where it is the base model."""
        prefix = str(getattr(self.model, "base_model_prefix", "") or "")
        return f"{prefix}." if prefix and hasattr(self.model, prefix) else ""

    def inside(self, name: str) -> bool:
        """Return whether the parameter belongs to the base model."""
        return name.startswith(self.prefix)


@measurement(Cost.STATIC)
def weights_files(pipeline: Pipeline) -> WeightsFiles:
    """Look each parameter up in the checkpoint's files, from this machine only.

    Raises:
        Skip: there are no files, none that can be read safely, or the weights are not as loaded.
    """
    if (away := not_in_memory(pipeline.model)) is not None:
        raise Skip(away)
    if pipeline.captured is not None and pipeline.captured.before:
        raise Skip("the script's loop took a step before those that are judged")
    base = unwrapped(pipeline.model)
    source = str(getattr(getattr(base, "config", None), "_name_or_path", "") or "")
    if not source:
        raise Skip("model.config names no checkpoint")
    folder = checkpoint_folder(base.config)
    if folder is None:
        return _without_safetensors(source)
    with ExitStack() as stack:
        files = stored_tensors(folder, stack)
        loaded = loaded_from(base, files)
        # Embeddings of another vocabulary are drawn anew, or put in another order.
        other = has_another_vocabulary(pipeline.tokenizer, folder)
        return _compared(loaded, files, str(folder), other)


def _compared(
    loaded: Loaded, files: dict[str, Any], folder: str, other_vocabulary: bool
) -> WeightsFiles:
    mapping, merged = loaded.mapping, _merged_by(loaded.model)
    vocabulary = _vocabulary(loaded.model)
    redrawn: list[str] = []
    differ: dict[str, float] = {}
    shapes: dict[str, tuple[list[int], list[int]]] = {}
    lost: dict[str, Any] = {}
    thinned: list[str] = []
    compared = 0
    for names, parameter in _with_all_names(loaded.parameters):
        name = next((name for name in names if name in mapping.found), None)
        if name is None:
            if not mapping.converted & set(names):
                lost[names[0]] = parameter
            continue
        part = files[mapping.found[name]].get_slice(mapping.found[name])
        shape = list(part.get_shape())
        first = 1 if id(parameter) in vocabulary else 0
        own = list(shape_of(parameter))
        if shape[first:] != own[first:]:
            shapes[names[0]] = (own, shape)
            continue
        compared += 1
        values = whole(parameter)
        share = share_that_differs(values, part, shape)
        if not share or _same_with_adapter(merged.get(id(parameter)), values, part):
            continue
        fewer = bool(first) and rows_are_taken(values, part, shape)
        if fewer or only_zeros_differ(values, part, shape):
            thinned.append(names[0])
        elif other_vocabulary and id(parameter) in vocabulary:
            redrawn.append(names[0])
        else:
            differ[names[0]] = share
    layers = _layers(loaded, files, [*differ, *lost, *shapes])
    differ = {name: share for name, share in differ.items() if not layers.explains(name)}
    lost = {name: p for name, p in lost.items() if not layers.explains(name)}
    shapes = {name: both for name, both in shapes.items() if not layers.explains(name)}
    missing = {name: p for name, p in lost.items() if loaded.inside(name)}
    unexpected = [
        key for key in _unexpected(loaded) if not layers.leaves_out(loaded.mapping.left[key])
    ]
    if not unexpected:  # else names were changed, and what is missing is what is left over
        missing = _without_new_parts(loaded, missing)
    if not missing:
        unexpected = _without_old_parts(loaded, unexpected, files)
    judged = mapping.exact
    return WeightsFiles(
        folder=folder,
        empty=False,
        compared=compared,
        differ=differ,
        missing=list(missing) if judged else [],
        unexpected=unexpected if judged else [],
        shapes={name: both for name, both in shapes.items() if loaded.inside(name)},
        resized={name: both for name, both in shapes.items() if not loaded.inside(name)},
        new=[*redrawn, *(name for name in lost if name not in missing), *loaded.outside],
        thinned=thinned,
        layers=layers if judged else Layers(),
    )


def _without_safetensors(source: str) -> WeightsFiles:
    if not os.path.isdir(source):
        raise Skip(f"the weights of {source} are not on this machine")
    if any(any(Path(source).glob(kind)) for kind in WEIGHTS):
        raise Skip(f"the weights in {source} are no safetensors: other formats are not opened")
    return WeightsFiles(source, True, 0, {}, [], [], {}, {}, [])


def loaded_from(base: Any, files: dict[str, Any]) -> Loaded:
    """Return the model that takes most of the files' tensors, of several the outermost.

    A module of the user's own around a backbone hands on the backbone's config.

    Raises:
        Skip: there is no model of the library.
    """
    from transformers import PreTrainedModel

    added, found = added_by_peft(base), []
    everything = _parameters(base, added)
    for place, module in base.named_modules():
        if not isinstance(module, PreTrainedModel) or ".base_layer" in place:
            continue
        parameters = _parameters(module, added)
        plain = (plain_name(name, added) for name, _ in module.named_buffers())
        buffers = [name for name in plain if name is not None]
        mapping = map_keys(module, [*parameters, *buffers], files)
        inside = own_modules(module, parameters, mapping, files)
        if inside != OwnModules():
            parameters = {inside.renamed.get(name, name): p for name, p in parameters.items()
                          if name not in inside.added}  # fmt: skip
            keys = [key for key in files if key not in inside.hidden]
            mapping = map_keys(module, [*parameters, *buffers], keys)
        own = {id(p) for p in parameters.values()}
        outside = [name for name, p in everything.items() if id(p) not in own]
        found.append(Loaded(module, parameters, mapping, outside))
    if not found:
        raise Skip("the model is none of transformers': what was loaded into it is not known")
    # The first of the largest: named_modules() begins with the outermost.
    return max(found, key=lambda one: len(one.mapping.found) + len(one.mapping.converted))


def _parameters(model: Any, added: set[str]) -> dict[str, Any]:
    """Return the loaded parameters by each of their names (a tied one has several), not PEFT's."""
    found, buffers = {}, dict(model.named_buffers())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".modules_to_save." in name:  # the copy that is trained; its original stays beside it
            continue
        plain = plain_name(own_name(name, buffers), added)
        if plain is not None:
            found[plain] = parameter
    return found


def _with_all_names(parameters: dict[str, Any]) -> list[tuple[list[str], Any]]:
    found: dict[int, tuple[list[str], Any]] = {}
    for name, parameter in parameters.items():
        found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return list(found.values())


def _vocabulary(model: Any) -> set[int]:
    """Embeddings and tied heads, whose rows grow and shrink with the vocabulary, by identity."""
    found: set[int] = set()
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            layer = getattr(model, getter, lambda: None)()
        except NotImplementedError:
            continue
        if layer is not None and hasattr(layer, "parameters"):
            found |= {id(p) for p in layer.parameters()}
    return found


def _merged_by(model: Any) -> dict[int, Any]:
    """Return the adapter layer around each weight that an adapter adds something to."""
    return {
        id(weight): module
        for module in model.modules()
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
        for weight in [getattr(module.base_layer, "weight", None)]
        if weight is not None
    }


def _same_with_adapter(layer: Any, parameter: Tensor, part: Any) -> bool:
    """Return whether weight and adapters together are the file's.

    PiSSA, OLoRA and CorDA move a part of the weight to the adapter.
    """
    import torch

    if layer is None:
        return False
    there = part[:].to(parameter.device).double()
    with torch.no_grad():
        together = parameter.detach().double()
        for adapter in layer.active_adapters:
            if adapter in getattr(layer, "lora_A", {}):
                together = together + whole(layer.get_delta_weight(adapter)).double()
    # The weight was rounded to its dtype, and the decomposition to float32.
    allowed = MARGIN * float(torch.finfo(parameter.dtype).eps) + REDUCTIONS
    difference, size = float((together - there).norm()), float(there.norm())
    return difference <= allowed * size


def _layers(loaded: Loaded, files: dict[str, Any], wrong: list[str]) -> Layers:
    """Look for whole layers of the file at other places of the model."""
    mapping = loaded.mapping
    there = {**{name: key for key, name in mapping.left.items()}, **mapping.found}

    def same(name: str, other: str) -> bool:
        parameter = loaded.parameters[name]
        part = files[there[other]].get_slice(there[other])
        shape = list(part.get_shape())
        if shape != list(shape_of(parameter)):
            return False
        return not share_that_differs(whole(parameter), part, shape)

    return layers_elsewhere(loaded.parameters.keys(), wrong, there, same)


def _unexpected(loaded: Loaded) -> list[str]:
    """Return tensors of the base model that nothing takes; heads of other tasks are no loss."""
    model, prefix = loaded.model, f"{getattr(loaded.model, 'base_model_prefix', '')}."
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    bare = not any(key.startswith(prefix) for key in loaded.mapping.left)
    parts = {_part(name, loaded.prefix) for name in loaded.parameters if loaded.inside(name)}
    return sorted(
        key
        for key, name in loaded.mapping.left.items()
        if (
            key.startswith(prefix)
            or name.startswith(prefix)
            or (bare and name.partition(".")[0] in parts)
        )
        and not any(re.search(pattern, key) for pattern in patterns)
        and not key.endswith(("inv_freq", "position_ids", ".masked_bias"))
    )


def _part(name: str, prefix: str) -> str:
    """Return the name of the base model's part that a parameter lies in."""
    return name.removeprefix(prefix).partition(".")[0]


def _without_new_parts(loaded: Loaded, missing: dict[str, Any]) -> dict[str, Any]:
    """Leave out parts of the base model that are new as a whole, as a pooler is.

    A classifier has one and a masked language model has none.  No part by itself is what holds
    blocks, an embedding, or no matrix at all.
    """
    loaded_parts = {_part(n, loaded.prefix) for n in loaded.mapping.found if loaded.inside(n)}
    if not loaded_parts:  # nothing was loaded
        return missing
    embeddings = _vocabulary(loaded.model)
    whole: dict[str, list[str]] = {}
    for name in missing:
        whole.setdefault(_part(name, loaded.prefix), []).append(name)
    kept = dict(missing)
    for part, names in whole.items():
        if (
            part not in loaded_parts
            and not any(_in_a_block(name) or id(missing[name]) in embeddings for name in names)
            and any(missing[name].dim() > 1 for name in names)
        ):
            kept = {name: p for name, p in kept.items() if name not in names}
    return kept


def _without_old_parts(loaded: Loaded, unexpected: list[str], files: dict[str, Any]) -> list[str]:
    """Leave out parts that the checkpoint's class has as a whole, and this one has not."""
    prefix = f"{getattr(loaded.model, 'base_model_prefix', '')}."
    own = {_part(name, loaded.prefix) for name in loaded.parameters}
    whole: dict[str, list[str]] = {}
    for key in unexpected:
        whole.setdefault(_part(key, prefix), []).append(key)
    return [
        key
        for part, keys in whole.items()
        for key in keys
        if part in own
        or any(_in_a_block(one) for one in keys)
        or not any(len(files[one].get_slice(one).get_shape()) > 1 for one in keys)
        or "embed" in part
    ]


def _in_a_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))
