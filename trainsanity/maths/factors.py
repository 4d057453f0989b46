"""The factors that known defects leave, matched against the numbers of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Family = dict[str, float]
"""Names of quantities that one defect multiplies by, with their values; the widest name first."""


SHARING = ("tp_size", "cp_size", "sp_size")
"""Dimensions of a mesh along which processes share rows: tensor, context and sequence parallelism,
in the words of accelerate's ``ParallelismConfig``."""

BETWEEN = ("gradient_accumulation_steps", "world_size", *SHARING)
"""What scales a step against its micro-batches by themselves: a factor of each cancels there."""

OF_A_SCHEDULE = (*BETWEEN, "per_device_train_batch_size")
"""What numbers of steps differ by."""


def only(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the facts of these names."""
    return {name: facts[name] for name in names if name in facts}


def families_of(facts: Mapping[str, Any]) -> list[Family]:
    """Return the quantities of the run that a factor may come from, in families.

    Args:
        facts: as in ``Pipeline.facts``; what it lacks is not matched.
    """
    accumulation = int(facts.get("gradient_accumulation_steps") or 1)
    world = int(facts.get("world_size") or 1)
    families: list[Family] = []
    # Two dimensions of one size are told apart by no number: each has a family of its own.
    for name, size in _dimensions(facts, world).items():
        family: Family = {}
        if accumulation > 1 and size > 1:
            words = f"gradient_accumulation_steps x {name} = {accumulation} x {size}"
            family[words] = accumulation * size
        if not families:
            family[f"gradient_accumulation_steps = {accumulation}"] = accumulation
        family[f"{name} = {size}"] = size
        families.append(family)
    others = ("per_device_train_batch_size", "num_labels", "sequence_length")
    families += [
        {f"{name} = {facts[name]}": int(facts[name])} for name in others if facts.get(name)
    ]
    clip, norm = facts.get("max_grad_norm"), facts.get("grad_norm")
    if clip and norm:
        families.append({f"grad_norm / max_grad_norm = {norm:g} / {clip:g}": norm / clip})
    return families


def _dimensions(facts: Mapping[str, Any], world: int) -> dict[str, int]:
    """Return the number of processes, or of a mesh each dimension's, the widest name first."""
    sharing = {name: int(facts[name]) for name in SHARING if (facts.get(name) or 1) > 1}
    data = world // math.prod(sharing.values())
    if not sharing:
        return {"world_size": world}
    own = {"data-parallel processes": data} if data > 1 else {}
    return {**({"world_size": world} if data > 1 else {}), **sharing, **own}


def fitting(low: float, high: float, facts: Mapping[str, Any]) -> list[str]:
    """Return the known quantities of the run, or their inverses, between ``low`` and ``high``.

    Equal quantities of one family are named once, by the wider name.  An empty list means that
    nothing known fits.
    """
    families = families_of(facts)
    families += [{_inverse(name): 1 / value for name, value in f.items()} for f in families]
    names = []
    for family in families:
        fits = [n for n, value in family.items() if value != 1 and low <= value <= high]
        values = {family[n] for n in fits}
        names += [next(n for n in fits if family[n] == value) for value in sorted(values)]
    return names


def name_factor(factor: float, facts: Mapping[str, Any], tolerance: float) -> list[str]:
    """Return the known quantities of the run that equal ``factor``, to a relative ``tolerance``."""
    if not factor > 0:
        return []
    return fitting(factor / (1 + tolerance), factor / (1 - min(tolerance, 0.5)), facts)


def _inverse(name: str) -> str:
    """Return the name of one over a quantity: "1 / num_labels = 1 / 7"."""
    words, _, numbers = name.partition(" = ")
    sides = (f"({side})" if " " in side else side for side in (words, numbers))
    return " = ".join(f"1 / {side}" for side in sides)


class Left(NamedTuple):
    """The names that are left, and what ruled the others out, in a clause; None if nothing did."""

    names: list[str]
    tested: str | None = None


def kept(names: list[str], quantities: Sequence[str], words: str) -> Left:
    """Keep the names of these quantities, if some are and some are not.

    Args:
        names: as :func:`fitting` returns them.
        quantities: words that a name which is kept has one of.
        words: what was measured that rules the others out.
    """
    inside = [name for name in names if any(one in name for one in quantities)]
    out = [name for name in names if name not in inside]
    if not inside or not out:
        return Left(names)
    return Left(inside, f"{' and '.join(out)} {'are' if len(out) > 1 else 'is'} ruled out: {words}")


def explained(factor: float, names: Sequence[str]) -> str:
    """Return the factor with its names, and what would tell several of them apart."""
    first, *others = names
    rest = f" (or {' or '.join(others)}: {tell_apart(names)})" if others else ""
    return f"{factor:.2f} is {first}{rest}"


def tell_apart(names: Sequence[str]) -> str:
    """Return how to find out which of several quantities it is."""
    first = names[0].removeprefix("1 / ").split(" = ")[0].strip("()")
    # The first setting of a product can be changed, and the last one of a quotient.
    return f"a step with another {first.split(' x ')[0].split(' / ')[-1]} tells which"


NAMING = 1e-3
"""Least relative tolerance at which a factor is named: the quantities are whole numbers."""


@dataclass(frozen=True)
class Factor:
    """A value that should equal another, as a multiple of it.

    Attributes:
        value: observed / expected; NaN where nothing is expected.
        tolerance: relative, by which it may differ from the quantity that it comes from.
    """

    value: float
    tolerance: float

    @classmethod
    def of(cls, observed: float, expected: float, allowed: float) -> Factor:
        """Divide; ``allowed`` is the difference that arithmetic explains."""
        if not expected:
            return cls(math.nan, NAMING)
        return cls(observed / expected, max(allowed / abs(expected), NAMING))

    def names(self, facts: Mapping[str, Any]) -> list[str]:
        """Return the known quantities of the run that it equals."""
        return name_factor(self.value, facts, self.tolerance)
