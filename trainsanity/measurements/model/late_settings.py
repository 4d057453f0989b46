"""Settings of the config that were changed after the model's modules had read them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.model.origin import checkpoint_folder
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PLAIN = (bool, int, float, str)
"""Values that a module takes over as they are."""

OTHERS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Settings that say where a model comes from, and nothing of how it is made."""


@dataclass(frozen=True)
class Late:
    """A setting that the modules do not have.

    Attributes:
        name: in the config.
        here, there: the config's value and the checkpoint's, which the modules were made with.
        modules: names of the modules that would be others.
        attribute: what they hold of it, as ``p`` of a dropout.
        held: its value there.
    """

    name: str
    here: Any
    there: Any
    modules: list[str]
    attribute: str
    held: Any


@dataclass(frozen=True)
class LateSettings:
    """Settings in which the config differs from its checkpoint's, held against the modules.

    Attributes:
        source: the checkpoint.
        changed: names of the settings that differ.
        late: those that no module follows.
    """

    source: str
    changed: list[str] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)


@measurement(Cost.STATIC)
def late_settings(pipeline: Pipeline) -> LateSettings:
    """Build the model without memory by either config, and see which of them its modules follow.

    Raises:
        Skip: the model was loaded from no checkpoint on this machine, or cannot be built so.
    """
    from transformers import PreTrainedModel

    model = unwrapped(pipeline.model)
    config: Any = getattr(model, "config", None)
    folder = checkpoint_folder(config)
    file = folder / "config.json" if folder is not None else None
    if not isinstance(model, PreTrainedModel) or file is None or not file.is_file():
        raise Skip("the model was loaded from no checkpoint on this machine")
    source = str(config._name_or_path)
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        there = type(config).from_dict(dict(stored)).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Skip(f"{file} cannot be read as a {type(config).__name__}: {error}") from error
    here = config.to_dict()
    if stored.get("model_type") != here.get("model_type"):
        raise Skip(f"{source} is a checkpoint of another architecture")
    changed = {name: there[name] for name in _changed(here, there)}
    if not changed:
        return LateSettings(source)
    try:
        now = _attributes(_skeleton(model, config, {}))
        late = []
        if _stale(model, now, _attributes(_skeleton(model, config, changed))):
            for name, value in changed.items():
                before = _attributes(_skeleton(model, config, {name: value}))
                stale = _stale(model, now, before)
                if stale:
                    place, attribute = stale[0]
                    modules = [where for where, _ in stale]
                    held = before[place, attribute]
                    late.append(Late(name, here[name], value, modules, attribute, held))
    except Exception as error:
        raise Skip(f"the model cannot be built without memory: {type(error).__name__}") from error
    return LateSettings(source, sorted(changed), late)


def _changed(here: dict[str, Any], there: dict[str, Any]) -> Iterator[str]:
    """Yield settings that differ; ids of tokens are set late by many, and no module computes so."""
    for name in sorted(set(here) & set(there), key=str):
        if name in OTHERS or name.endswith("_token_id"):
            continue
        own, other = here[name], there[name]
        if own != other and isinstance(own, PLAIN) and isinstance(other, PLAIN):
            yield name


def _skeleton(model: Any, config: Any, settings: dict[str, Any]) -> Any:
    import torch

    other = copy.deepcopy(config)
    for name, value in settings.items():
        setattr(other, name, value)
    with torch.device("meta"):
        return type(model)(other)


def _attributes(model: Any) -> dict[tuple[str, str], Any]:
    """Return the plain values that each module holds, by its name and theirs."""
    return {
        (place, name): value
        for place, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, PLAIN) and name != "training"
    }


def _stale(
    model: Any, now: dict[tuple[str, str], Any], before: dict[tuple[str, str], Any]
) -> list[tuple[str, str]]:
    """Return what the model holds as before, where it would be another now.

    None of them where some follow the new value: then it came in time, and others were set by hand.
    """
    own = _attributes(model)
    others = [key for key, value in before.items() if key in now and now[key] != value]
    there = [key for key in others if key in own]
    if any(own[key] == now[key] for key in there):
        return []
    return [key for key in there if own[key] == before[key]]
