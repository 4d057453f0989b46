"""Names of a checkpoint's tensors, mapped to the model's as ``from_pretrained`` maps them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

LEGACY = ((".gamma", ".weight"), (".beta", ".bias"))
"""Names of a LayerNorm's weights in old checkpoints, and today's."""


@dataclass(frozen=True)
class KeyMapping:
    """Where each tensor of the files goes.

    Attributes:
        found: model's name to the files' name, for tensors that are taken as they are.
        converted: model's names that are made of several tensors, or of a part of one.
        left: the files' names that no parameter takes, to the name that they were looked for under.
        exact: this is the library's own account, so that what is not found is not there.
    """

    found: dict[str, str] = field(default_factory=dict)
    converted: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    exact: bool = True


def map_keys(model: Any, names: Collection[str], keys: Iterable[str]) -> KeyMapping:
    """Map the files' names to the model's.

    Args:
        model: a ``PreTrainedModel``, whose class and config tell how names are converted.
        names: of its parameters and buffers, as they were before PEFT wrapped their modules.
        keys: names of the tensors in the files.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError:
        return _by_name(model, names, keys)
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    prefix = str(getattr(model, "base_model_prefix", "") or "") or None
    there: dict[str, Any] = dict.fromkeys(names, True)
    mapping = KeyMapping()
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, there)
        if name not in there and key in there:
            name, pattern = rename_source_key(key, [], [], prefix, there)
        if pattern is not None:
            targets = _targets(name, pattern, converters) & there.keys()
            mapping.converted.update(targets)
            if not targets:
                mapping.left[key] = name
        elif name in there:
            mapping.found.setdefault(name, key)
        else:
            mapping.left[key] = name
    return mapping


def _targets(name: str, pattern: str, converters: Iterable[Any]) -> set[str]:
    """Return all names that a converter makes, of which the library's function tells the first."""
    for converter in converters:
        if pattern in converter.source_patterns:
            first, *others = converter.target_patterns
            return {name, *(name.replace(first, other, 1) for other in others)}
    return {name}


def _by_name(model: Any, names: Collection[str], keys: Iterable[str]) -> KeyMapping:
    """Map names by the base model's prefix and the old names of norms, before transformers 5."""
    files, used = set(keys), set()
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    mapping = KeyMapping(exact=not getattr(model, "_checkpoint_conversion_mapping", None))
    for name in names:
        key = next((key for key in _candidates(name, prefix) if key in files), None)
        if key is not None:
            mapping.found[name] = key
            used.add(key)
    mapping.left.update({key: key for key in files - used})
    return mapping


def _candidates(name: str, prefix: str) -> Iterator[str]:
    """Yield what a file may call a parameter."""
    names = [name, f"{prefix}.{name}"] if prefix else [name]
    if prefix and name.startswith(f"{prefix}."):
        names.append(name.removeprefix(f"{prefix}."))
    for one in names:
        yield one
        for old, new in LEGACY:
            if one.endswith(new):
                yield one.removesuffix(new) + old
