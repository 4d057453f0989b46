"""The factors that known defects leave, matched against the numbers of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Family = dict[str, float]
"""Names of quantities that one defect multiplies by, with their values; the widest name first."""


def families_of(facts: Mapping[str, Any]) -> list[Family]:
    """The quantities of the run that a factor may come from, those that defects share together.

    Args:
        facts: as in ``Pipeline.facts``; what it lacks is not matched.
    """
    accumulation = int(facts.get("gradient_accumulation_steps") or 1)
    world = int(facts.get("world_size") or 1)
    families: list[Family] = [
        {
            f"gradient_accumulation_steps x world_size = {accumulation} x {world}": (
                accumulation * world
            ),
            f"gradient_accumulation_steps = {accumulation}": accumulation,
            f"world_size = {world}": world,
        }
    ]
    others = ("per_device_train_batch_size", "num_labels", "sequence_length")
    families += [
        {f"{name} = {facts[name]}": int(facts[name])} for name in others if facts.get(name)
    ]
    clip, norm = facts.get("max_grad_norm"), facts.get("grad_norm")
    if clip and norm:
        families.append({f"grad_norm / max_grad_norm = {norm:g} / {clip:g}": norm / clip})
    return families


def fitting(low: float, high: float, facts: Mapping[str, Any]) -> list[str]:
    """Which known quantities of the run, or their inverses, lie between ``low`` and ``high``.

    Equal quantities of one family (accumulation alone and accumulation x world size, on one
    process) are told once, by the wider name.  An empty list means that nothing known fits.
    """
    families = families_of(facts)
    families += [
        {"1 / (" + name.replace(" = ", ") = 1 / (") + ")": 1 / value for name, value in f.items()}
        for f in families
    ]
    names = []
    for family in families:
        fits = [n for n, value in family.items() if value != 1 and low <= value <= high]
        values = {family[n] for n in fits}
        names += [next(n for n in fits if family[n] == value) for value in sorted(values)]
    return names


def name_factor(factor: float, facts: Mapping[str, Any], tolerance: float) -> list[str]:
    """Which known quantities of the run equal ``factor`` within the relative ``tolerance``."""
    if not factor > 0:
        return []
    return fitting(factor / (1 + tolerance), factor / (1 - min(tolerance, 0.5)), facts)


def told(factor: float, names: Sequence[str]) -> str:
    """The factor by its names, with what would tell them apart if there are several."""
    apart = f" ({tell_apart(names)})" if len(names) > 1 else ""
    return f"{factor:.2f} is {' or '.join(names)}{apart}"


def tell_apart(names: Sequence[str]) -> str:
    """What would show which of several quantities it is, as a sentence."""
    words = [name.removeprefix("1 / (").split(" = ")[0].rstrip(")") for name in names]
    # Of a product the first can be set, of a quotient the last.
    first = words[0].split(" x ")[0].split(" / ")[-1]
    return (
        f"{' and '.join(words)} fit equally well; to tell them apart, take one step with another "
        f"{first}: the factor follows the one that it comes from"
    )
