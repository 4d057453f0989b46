"""The factors that known defects leave, matched against the numbers of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_factor(factor: float, facts: Mapping[str, Any], tolerance: float) -> list[str]:
    """Which known quantities of the run equal ``factor`` within the relative ``tolerance``.

    Equal quantities (accumulation alone and accumulation x world size, on one process) are told
    once, by the wider name.  An empty list means that nothing known fits.
    """
    accumulation = int(facts.get("gradient_accumulation_steps") or 1)
    world = int(facts.get("world_size") or 1)
    rows = int(facts.get("per_device_train_batch_size") or 1)
    together = accumulation * world
    families: list[dict[str, float]] = [
        {
            f"gradient_accumulation_steps x world_size = {accumulation} x {world}": together,
            f"gradient_accumulation_steps = {accumulation}": accumulation,
            f"world_size = {world}": world,
        },
        {f"per_device_train_batch_size = {rows}": rows},
    ]
    families += [
        {"1 / (" + name.replace(" = ", ") = 1 / (") + ")": 1 / value for name, value in f.items()}
        for f in families
    ]
    names = []
    for family in families:
        fits = [
            n for n, value in family.items() if value != 1 and abs(factor / value - 1) <= tolerance
        ]
        values = {family[n] for n in fits}
        names += [next(n for n in fits if family[n] == value) for value in sorted(values)]
    return names
