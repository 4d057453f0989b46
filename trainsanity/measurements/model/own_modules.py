"""Modules of the user's own inside a model of the library's: layers that were wrapped or added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import shape_of, whole
from trainsanity.measurements.model.stored_tensors import share_that_differs

if TYPE_CHECKING:
    from trainsanity.measurements.model.key_mapping import KeyMapping

LIBRARIES = frozenset({"torch", "transformers", "peft", "bitsandbytes", "deepspeed", "accelerate"})
"""Packages whose modules in the library's model are told about by names of their own."""


@dataclass(frozen=True)
class OwnModules:
    """What stands inside the library's model and is none of its architecture.

    Attributes:
        renamed: by a parameter's name that of the tensor it was before its layer was wrapped.
        added: parameters that a wrapper, or a module of the user's own, brings along.
        hidden: the files' tensors whose layer is now a module that keeps its weight otherwise.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)


def own_modules(
    model: Any, parameters: Mapping[str, Any], mapping: KeyMapping, files: Mapping[str, Any]
) -> OwnModules:
    """Look for layers of the checkpoint inside modules that took their places.

    Args:
        model: a ``PreTrainedModel``.
        parameters: by its own names.
        mapping: of the files' names and the model's.
        files: the open file that holds each tensor.
    """
    found = OwnModules()
    modules = dict(model.named_modules())
    foreign = {place for place, module in modules.items() if place and _is_foreign(model, module)}
    new = [name for name in parameters if name not in mapping.found]
    wrappers = set()
    for key, name in mapping.left.items():
        part = files[key].get_slice(key)
        shape = list(part.get_shape())
        free = [
            one
            for one in new
            if one not in found.renamed and list(shape_of(parameters[one])) == shape
        ]
        for place, rest in _splits(name):
            if place not in modules:
                continue
            named = [one for one in free if _lies_in(one, place, rest)]
            # A module of the user's own may call it as it likes.
            others = [one for one in free if place in foreign and one.startswith(f"{place}.")]
            if inside := [*named, *others]:
                # A square layer's factors may have its shape: the one with its values is it.
                same = (one for one in inside if not _differs(parameters[one], part, shape))
                found.renamed[next(same, inside[0])] = name
                wrappers.add(place)
            elif place in foreign:
                found.hidden.add(key)
            else:
                continue
            break
    around = wrappers | foreign
    for name in new:
        if name not in found.renamed and any(name.startswith(f"{place}.") for place in around):
            found.added.add(name)
    return found


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield a module's name and the rest of the parameter's, the innermost module first."""
    place = name
    while "." in place:
        place = place.rpartition(".")[0]
        yield place, name[len(place) + 1 :]


def _lies_in(name: str, place: str, rest: str) -> bool:
    """Return whether a parameter has these names, and a module's between them."""
    return name.startswith(f"{place}.") and name.endswith(f".{rest}") and name != f"{place}.{rest}"


def _differs(parameter: Any, part: Any, shape: list[int]) -> bool:
    return bool(share_that_differs(whole(parameter), part, shape))


def _is_foreign(model: Any, module: Any) -> bool:
    """Return whether a module of a model of transformers' is no part of that library."""
    own, theirs = (type(one).__module__.partition(".")[0] for one in (model, module))
    return own == "transformers" and theirs not in LIBRARIES
