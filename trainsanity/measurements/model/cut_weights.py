"""What people cut out of a checkpoint after loading it: layers, single weights, rows of words.

What is left over is the checkpoint's own, at another place, beside zeros, or in fewer rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = 16
"""Columns by which a row of an embedding is looked for in the file; as floats they are drawn
together once."""

ROWS = 64
"""Rows that are looked for."""


@dataclass(frozen=True)
class Layers:
    """Layers of the model that are the file's at another place.

    Attributes:
        moved: by the model's layer (``model.layers.2``) the file's.
        cut: layers that the file has and the model does not use.
        exchanged: each of the file's layers is used once, in another order.
    """

    moved: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    exchanged: bool = False

    def explains(self, name: str) -> bool:
        """Return whether a parameter lies in a layer that was moved."""
        return (layer_of(name) or "") in self.moved

    def leaves_out(self, name: str) -> bool:
        """Return whether a tensor of the file lies in a layer that is not used, or elsewhere."""
        layer = layer_of(name) or ""
        return layer in self.cut or layer in self.moved.values()


def layer_of(name: str) -> str | None:
    """Return the layer that a parameter lies in: its name up to the first number."""
    parts = name.split(".")
    number = next((k for k, part in enumerate(parts) if part.isdigit()), None)
    return None if number is None else ".".join(parts[: number + 1])


def layers_elsewhere(
    names: Collection[str],
    wrong: Iterable[str],
    there: Collection[str],
    same: Callable[[str, str], bool],
) -> Layers:
    """Look for layers that are another layer of the file, as a whole.

    Args:
        names: the model's parameters.
        wrong: those that the file has otherwise, or not at all.
        there: names that the file has, as the model would call them.
        same: whether a parameter of the model has the values of a name in the file.
    """
    inside, stored = _by_layer(names), _by_layer(there)
    bad = {layer for name in wrong if (layer := layer_of(name)) is not None}
    found: dict[str, str] = {}
    for layer in sorted(bad):
        stack = layer.rpartition(".")[0]
        others = [one for one in stored if one.rpartition(".")[0] == stack and one != layer]
        match = next(
            (
                other
                for other in others
                if inside.get(layer)
                and all(f"{other}.{rest}" in there for rest in inside[layer])
                and all(same(f"{layer}.{rest}", f"{other}.{rest}") for rest in inside[layer])
            ),
            None,
        )
        if match is not None:
            found[layer] = match
    whole = {layer.rpartition(".")[0] for layer in inside} - {
        layer.rpartition(".")[0] for layer in bad - found.keys()
    }
    uses = Counter(found.get(layer, layer) for layer in inside)
    cut = [one for one in stored if one.rpartition(".")[0] in whole and one not in uses]
    exchanged = bool(found) and not cut and set(uses) == set(inside)
    return Layers(found, cut, exchanged and max(uses.values()) == 1)


def _by_layer(names: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        layer = layer_of(name)
        if layer is not None:
            found.setdefault(layer, []).append(name.removeprefix(f"{layer}."))
    return found


def rows_are_taken(here: Tensor, part: Any, shape: list[int]) -> bool:
    """Return whether an embedding of fewer rows than the file's has rows of it alone."""
    if len(shape) != 2 or len(here) >= shape[0]:
        return False
    columns = slice(0, min(COLUMNS, shape[1]))
    stored = {tuple(row) for row in part[:, columns].to(here.dtype).tolist()}
    step = max(1, len(here) // ROWS)
    return all(tuple(row) in stored for row in here[::step, columns].detach().cpu().tolist())


def own_name(name: str, names: Mapping[str, Any]) -> str:
    """Return a parameter's name before torch gave it a mask or a parametrization.

    Args:
        name: of a parameter.
        names: of all buffers of the model.
    """
    stem = name.removesuffix("_orig")
    if stem != name and f"{stem}_mask" in names:  # torch.nn.utils.prune
        return stem
    before, mark, after = name.partition(".parametrizations.")
    inner, _, last = after.partition(".")
    return f"{before}.{inner}" if mark and last == "original" else name
