"""The model's config beside the config.json of the checkpoint that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.model.origin import checkpoint_folder
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FORWARD = re.compile(
    r"rope_|rotary_|partial_rotary|(.*_)?eps(ilon)?$|.*epsilon$|(hidden_)?act(ivation)?$"
    r"|hidden_activation$|activation_function$|.*softcap(ping)?$|.*_multiplier$|logits?_scal"
    r"|query_pre_attn_scalar$|head_dim$|num_(attention|key_value)_heads$|n_heads?$|scale_"
    r"|attention_scal|norm_topk_prob$|routed_scaling_factor$|position_embedding_type$|alibi$"
    r"|(use_)?sliding_window$|num_experts_per_tok$|num_labels_per_tok$"
)
"""Settings, by name, that change what the same weights compute."""

MEANT = re.compile(r"(use_)?sliding_window$|num_experts_per_tok$")
"""Those that people change for fine-tuning."""

SIZES = (
    "hidden_size",
    "d_model",
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "intermediate_size",
)
"""A model of other sizes cannot hold the checkpoint's weights."""

SCALED = ("rope_type", "type", "factor")
"""Keys of a rope's settings that say how positions are scaled beyond those of the checkpoint."""


@dataclass(frozen=True)
class Setting:
    """One setting that differs.

    Attributes:
        name: in the config, with the part that it belongs to.
        here, there: the model's value and the file's.
        meant: people change it on purpose.
    """

    name: str
    here: Any
    there: Any
    meant: bool


@dataclass(frozen=True)
class ConfigFile:
    """The model's settings against the file's.

    Attributes:
        source: where the file is.
        compared: how many settings of the forward both have.
        other: those that differ.
    """

    source: str
    compared: int
    other: list[Setting] = field(default_factory=list)


@measurement(Cost.STATIC)
def config_file(pipeline: Pipeline) -> ConfigFile:
    """Read the file by the model's own config class, and compare what the forward depends on.

    Raises:
        Skip: there is no such file on this machine, or it is another architecture's.
    """
    config: Any = getattr(unwrapped(pipeline.model), "config", None)
    source = str(getattr(config, "_name_or_path", "") or "")
    if not source:
        raise Skip("model.config names no checkpoint")
    folder = checkpoint_folder(config)
    file = folder / "config.json" if folder is not None else None
    if file is None or not file.is_file():
        raise Skip(f"no weights with a config.json of {source} are on this machine")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        there = type(config).from_dict(dict(stored)).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Skip(f"{file} cannot be read as a {type(config).__name__}: {error}") from error
    here = config.to_dict()
    if stored.get("model_type") != here.get("model_type"):
        raise Skip(f"{source} is a checkpoint of another architecture")
    if any(here.get(name) != there.get(name) for name in SIZES):
        raise Skip(f"the model has other sizes than {source}: it is another one")
    longer = _positions(here) > _positions(there)
    compared, other = 0, []
    for name, own, stored_value in _both(here, there, ""):
        compared += 1
        if own != stored_value:
            other.append(Setting(name, own, stored_value, _meant(name, own, stored_value, longer)))
    # What scales positions speaks for every setting of the rope beside it.
    if any(one.meant and _of_the_rope(one.name) for one in other):
        other = [
            Setting(one.name, one.here, one.there, one.meant or _of_the_rope(one.name))
            for one in other
        ]
    return ConfigFile(source, compared, other)


def _both(here: Any, there: Any, before: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that both have: with values, or with None in one of them."""
    for name in sorted(set(here) & set(there), key=str):
        own, other, place = here[name], there[name], f"{before}{name}"
        of_rope = str(name).startswith("rope_")
        if isinstance(own, Mapping) is not isinstance(other, Mapping):
            kind = _kind(own), _kind(other)
            if of_rope and kind[0] != kind[1]:
                yield f"{place}.rope_type", *kind
        elif isinstance(own, Mapping):
            if of_rope or before.startswith("rope_") or str(name).endswith("_config"):
                yield from _both(own, other, f"{place}.")
        elif (
            before.startswith("rope_")
            or ".rope_" in before
            or (FORWARD.match(str(name)) and not isinstance(own or other, list))
        ):
            yield place, own, other


def _kind(rope: Any) -> str:
    """Return how a rope's settings scale positions; none at all scale nothing."""
    if not isinstance(rope, Mapping):
        return "default"
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _of_the_rope(name: str) -> bool:
    return name.startswith(("rope_", "rotary_")) or ".rope_" in name


def _meant(name: str, own: Any, there: Any, longer: bool) -> bool:
    if own is None or there is None:  # switched off or on
        return True
    if _of_the_rope(name):
        scaled = name.rpartition(".")[2] in SCALED or name.endswith("rope_scaling")
        return scaled or longer
    return bool(MEANT.match(name.rpartition(".")[2]))


def _positions(config: Mapping[str, Any]) -> int:
    own = config.get("max_position_embeddings")
    part = config.get("text_config")
    inside = part.get("max_position_embeddings") if isinstance(part, Mapping) else None
    return int(own or inside or 0)
