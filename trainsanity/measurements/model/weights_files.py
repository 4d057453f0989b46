"""The model's weights beside the safetensors files of the checkpoint that its config names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.model.origin import added_by_peft, checkpoint_folder, plain_name
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.pipeline import is_adapted, unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

PART = 4096
"""Elements compared of each tensor, from its first rows: what is drawn anew is drawn as a whole,
and the first rows of an embedding are no added tokens."""

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth", "*.h5", "*.msgpack")
"""Files that weights come in.  Only the first are read: the others run code, or are converted."""

LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))
"""What old checkpoints call the weights of a LayerNorm."""


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
        new: parameters outside the base model that the files do not have.
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


@measurement(Cost.STATIC)
def weights_files(pipeline: Pipeline) -> WeightsFiles:
    """Look each parameter up in the checkpoint's files, from this machine only.

    Raises:
        Skip: there are no files, none that can be read safely, or the weights are not as loaded.
    """
    if (away := not_in_memory(pipeline.model)) is not None:
        raise Skip(away)
    base = unwrapped(pipeline.model)
    source = str(getattr(getattr(base, "config", None), "_name_or_path", "") or "")
    if not source:
        raise Skip("model.config names no checkpoint")
    folder = checkpoint_folder(base.config)
    if folder is None:
        return _without_safetensors(source)
    parameters = _parameters(pipeline.model)
    prefix = str(getattr(base, "base_model_prefix", "") or "")
    differ: dict[str, float] = {}
    shapes: dict[str, tuple[list[int], list[int]]] = {}
    lost, used, compared = [], set(), 0
    with ExitStack() as stack:
        files = _tensors(folder, stack)
        for names, parameter in parameters:
            key = next((k for name in names for k in _keys(name, prefix) if k in files), None)
            if key is None:
                lost.append(names[0])
                continue
            used.add(key)
            part = files[key].get_slice(key)
            shape = list(part.get_shape())
            first = 1 if _is_vocabulary(base, parameter) else 0
            if shape[first:] != list(parameter.shape)[first:]:
                shapes[names[0]] = (list(parameter.shape), shape)
            else:
                compared += 1
                share = _share_that_differs(parameter, part, shape)
                if share:
                    differ[names[0]] = share
        rest = [] if _renames(base) else _unexpected(base, set(files) - used, prefix)
    inside = [name for name in lost if _inside(name, prefix)]
    return WeightsFiles(
        folder=str(folder),
        empty=False,
        compared=compared,
        differ=differ,
        # Where names are converted on loading, one that is not found was in most cases renamed.
        missing=[] if _renames(base) else inside,
        unexpected=rest,
        shapes={name: both for name, both in shapes.items() if _inside(name, prefix)},
        resized={name: both for name, both in shapes.items() if not _inside(name, prefix)},
        new=[name for name in lost if not _inside(name, prefix)],
    )


def _without_safetensors(source: str) -> WeightsFiles:
    if not os.path.isdir(source):
        raise Skip(f"the weights of {source} are not on this machine")
    if any(any(Path(source).glob(kind)) for kind in WEIGHTS):
        raise Skip(f"the weights in {source} are no safetensors: other formats are not opened")
    return WeightsFiles(source, True, 0, {}, [], [], {}, {}, [])


def _parameters(model: Any) -> list[tuple[list[str], Any]]:
    """The loaded parameters with all their names (a tied weight has several), without PEFT's."""
    adapted = is_adapted(model)
    added = added_by_peft(model) if adapted else set()
    found: dict[int, tuple[list[str], Any]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".modules_to_save." in name:  # the copy that is trained; its original stays beside it
            continue
        plain = plain_name(name.replace(".original_module.", "."), added) if adapted else name
        if plain is not None:
            found.setdefault(id(parameter), ([], parameter))[0].append(plain)
    return list(found.values())


def _tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """By tensor name, the open file that holds it."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.name.startswith("adapter"):
            file = stack.enter_context(safe_open(str(path), framework="pt"))
            found |= dict.fromkeys(file.keys(), file)
    return found


def _keys(name: str, prefix: str) -> Iterator[str]:
    """What a file may call a parameter: with the base model's prefix, without it, as of old."""
    names = [name, f"{prefix}.{name}"] if prefix else [name]
    if prefix and name.startswith(f"{prefix}."):
        names.append(name.removeprefix(f"{prefix}."))
    for one in names:
        yield one
        for old, new in LEGACY:
            if one.endswith(new):
                yield one.removesuffix(new) + old


def _inside(name: str, prefix: str) -> bool:
    return not prefix or name.startswith(f"{prefix}.")


def _is_vocabulary(model: Any, parameter: Any) -> bool:
    """An embedding or its tied head, whose rows grow and shrink with the vocabulary."""
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            layer = getattr(model, getter, lambda: None)()
        except NotImplementedError:
            continue
        if getattr(layer, "weight", None) is parameter:
            return True
    return False


def _share_that_differs(parameter: Tensor, part: Any, shape: list[int]) -> float:
    """Elements that differ by more than rounding to a dtype that the model was loaded in."""
    import torch

    rows = max(1, PART // max(1, math.prod(shape[1:])))
    there = part[: min(rows, shape[0], len(parameter))] if shape else part[:]
    here = parameter.detach()[: len(there)].cpu() if shape else parameter.detach().cpu()
    least = 1.0
    for dtype in dict.fromkeys((here.dtype, torch.bfloat16, torch.float16)):
        same = there.to(dtype).to(here.dtype) == here
        least = min(least, float((~same).float().mean()))
    return least


def _renames(model: Any) -> bool:
    """Whether transformers converts names of this architecture's tensors when it loads them."""
    if getattr(model, "_checkpoint_conversion_mapping", None):
        return True
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:
        return False
    return bool(get_checkpoint_conversion_mapping(getattr(model.config, "model_type", "")))


def _unexpected(model: Any, rest: set[str], prefix: str) -> list[str]:
    """Tensors of the base model that nothing takes; heads of other tasks are no loss."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    known = {name for name, _ in model.named_buffers()}
    return sorted(
        name
        for name in rest
        if name.startswith(f"{prefix}.")
        and name not in known
        and not any(re.search(pattern, name) for pattern in patterns)
        and not name.endswith(("inv_freq", "position_ids", ".masked_bias"))
    )
