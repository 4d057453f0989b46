"""PEFT's adapters before training: what is adapted, what cannot move, what is nested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.model.origin import adapter_of, added_by_peft
from trainsanity.pipeline import active_adapters, unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
"""The two sides of LoRA; each multiplies the other's gradient."""


@dataclass(frozen=True)
class Unmatched:
    """An entry of ``target_modules`` that no module has the name of.

    Attributes:
        adapter: whose configuration.
        entry: the name.
        parameter: a parameter of that name; empty if there is none either.
        adapted: whether the parameter is adapted by ``target_parameters``.
    """

    adapter: str
    entry: str
    parameter: str
    adapted: bool


@dataclass(frozen=True)
class Adapters:
    """Facts about a model's adapters, known without running it.

    Attributes:
        names: all adapters.
        active: those that take part in a forward.
        layers: layers with an active adapter.
        kinds: the last part of their names, with how many there are.
        bare: the same of linear layers inside the blocks that no adapter stands on.
        still: why an adapter cannot move, with the layers of which that is true.
        trainable, frozen: parameters of active adapters.
        elsewhere: trainable parameters of adapters that are not active.
        nested: where an adapter lies inside another.
        unmatched: entries of ``target_modules`` without a module.
    """

    names: list[str]
    active: list[str]
    layers: int
    kinds: Counter[str]
    bare: Counter[str]
    still: dict[str, list[str]] = field(default_factory=dict)
    trainable: int = 0
    frozen: int = 0
    elsewhere: int = 0
    nested: list[str] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)


@measurement(Cost.STATIC)
def adapters(pipeline: Pipeline) -> Adapters:
    """Read the adapters' layers.

    Raises:
        Skip: the model has none.
    """
    import torch

    model = pipeline.model
    configs: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    if not configs:
        raise Skip("the model has no adapter of PEFT")
    active = set(active_adapters(model))
    tuned = {name: m for name, m in model.named_modules() if is_tuner(m)}
    with_active = {n: m for n, m in tuned.items() if active & set(active_adapters(m))}
    still: dict[str, list[str]] = {}
    for name, layer in with_active.items():
        for why in {why for one in active for why in _still(layer, one)}:
            still.setdefault(why, []).append(name)
    inside = tuple(f"{name}." for name in tuned)
    bare = Counter(
        _kind(name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith(inside or ("\0",))
        and any(part.isdigit() for part in name.split("."))
    )
    added = added_by_peft(model)
    owners = {n: adapter_of(n, configs, added) for n, _ in model.named_parameters()}
    learns = {n: p.requires_grad for n, p in model.named_parameters()}
    own = [n for n, owner in owners.items() if owner in active]
    return Adapters(
        list(configs),
        sorted(active),
        len(with_active),
        Counter(_kind(name) for name in with_active),
        bare,
        still,
        sum(learns[n] for n in own),
        sum(not learns[n] for n in own),
        sum(learns[n] for n, owner in owners.items() if owner is not None and owner not in active),
        _nested(model, tuned),
        list(_unmatched(model, configs)),
    )


def is_tuner(module: Any) -> bool:
    """Return whether PEFT put this layer around one of the base model's."""
    return hasattr(module, "adapter_layer_names") and hasattr(module, "base_layer")


def base_weight(layer: Any) -> Any:
    """Return the base weight of a layer that PEFT may have wrapped."""
    while True:
        inner = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
        if inner is None:
            return getattr(layer, "weight", None)
        layer = inner


def _kind(name: str) -> str:
    return name.removesuffix(".base_layer").rpartition(".")[2]


def _still(layer: Any, adapter: str) -> Iterator[str]:
    """Yield why an adapter's part of a layer has a gradient of zero for good."""
    if getattr(layer, "disable_adapters", False):
        yield "is turned off"
    if adapter in (getattr(layer, "merged_adapters", None) or ()):
        yield "is merged into its base"
    scaling = getattr(layer, "scaling", None)
    if isinstance(scaling, Mapping) and scaling.get(adapter) == 0:
        yield "is scaled by 0"
    dropout = getattr(layer, "lora_dropout", None) or {}
    if adapter in dropout and getattr(dropout[adapter], "p", 0) >= 1:
        yield "has a dropout of 1"
    for one, other in PAIRS:
        sides = [getattr(layer, name, None) for name in (one, other)]
        if all(side is not None and adapter in side for side in sides):
            parts = [side[adapter] for side in sides if side is not None]
            weights = [getattr(part, "weight", part) for part in parts]
            if not any(w.is_meta or bool(w.detach().any()) for w in weights):
                yield "has zeros on both sides"


def _nested(model: Any, tuned: Mapping[str, Any]) -> list[str]:
    """Return where PEFT wrapped what it had wrapped before."""
    found = [
        name or "the model"
        for name, module in model.named_modules()
        if module is not model and hasattr(module, "get_base_model")
    ]
    # PEFT itself puts one layer around another for each adapted parameter of a module.
    return found + [
        name
        for name, layer in tuned.items()
        if is_tuner(layer.base_layer) and not hasattr(layer, "parameter_name")
    ]


def _unmatched(model: Any, configs: Mapping[str, Any]) -> Iterator[Unmatched]:
    base = unwrapped(model)
    modules = [name for name, _ in base.named_modules()]
    parameters = [name for name, _ in base.named_parameters()]
    for adapter, config in configs.items():
        entries = getattr(config, "target_modules", None)
        if not isinstance(entries, set | list | tuple):
            continue  # a pattern that matches nothing is refused by PEFT
        wanted = getattr(config, "target_parameters", None) or ()
        for entry in sorted(entries):
            if any(_ends(name, entry) for name in modules):
                continue
            # What stands around an adapted parameter keeps its name in its own.
            places = [name for name in parameters if _ends(name, entry)]
            adapted = any(_ends(one, entry) for one in wanted)
            yield Unmatched(adapter, entry, places[0] if places else "", adapted)


def _ends(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")
