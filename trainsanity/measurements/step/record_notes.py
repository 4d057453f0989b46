"""What is noted of a step as the optimizer takes it, and gathered from all processes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.collectives import all_gather, rank
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.shards import is_sharded
from trainsanity.measurements.step.update import before_step

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline


def broken(seen: Recording) -> bool:
    """A gradient is not finite: the weights are lost, and later steps have nothing to say."""
    return any(not parameter.finite for parameter in seen.update.parameters)


def note_update(seen: Recording, model: Any, optimizer: Any) -> None:
    """Groups and gradients as the optimizer finds them.

    A NaN of an earlier step stays known, and so does a gradient: parts may be trained by turns.
    """
    earlier = {p.name: p for p in seen.update.parameters}
    outside, seen.update = seen.update.outside, before_step(model, optimizer)
    seen.update.outside = outside
    for parameter in seen.update.parameters:
        if (before := earlier.get(parameter.name)) is not None:
            parameter.finite &= before.finite
            parameter.has_gradient |= before.has_gradient


def note_rates(seen: Recording, optimizer: Any) -> None:
    """Note the rate of each group, what it was built with, and what is set beside the groups."""
    groups = optimizer.param_groups
    seen.steps[-1].rates = [group["lr"] for group in groups]
    seen.peaks = [float(group.get("initial_lr", group["lr"])) for group in groups]
    inner = getattr(optimizer, "optimizer", optimizer)
    seen.optimizer = type(inner).__name__
    # Another's optimizer may read what it likes; torch's own read their groups alone.
    if type(inner).__module__.startswith("torch.optim"):
        options = {**{name: name for name in inner.defaults}, "learning_rate": "lr"}
        seen.beside_groups |= {
            name: (value, groups[0].get(options[name]))
            for name, value in {**vars(inner), **vars(optimizer)}.items()
            if name in options and all(group.get(options[name]) != value for group in groups)
        }


def note_held(pipeline: Pipeline, seen: Recording, moment: str) -> None:
    """Hashes of the weights as this process has them now, to be held against the others'."""
    if pipeline.other_processes is None:
        return
    named = dict(pipeline.model.named_parameters())
    whole = {name: p for name, p in named.items() if not is_sharded(p)}
    seen.sharded = len(named) - len(whole)
    seen.held[moment] = [dict(zip(whole, hashes(whole.values()), strict=True))]


def gather(seen: Recording, group: int = 1) -> None:
    """Each process saw its own rows; the reference needs them all.  Same order everywhere.

    Of a group of processes that compute the same rows together the first one's are counted.
    """
    first = rank() - rank() % group
    for moment, (own_hashes,) in seen.held.items():
        seen.held[moment] = all_gather(own_hashes)
    for step in seen.steps:
        # What only the own process can ask again stays here.
        apart: dict[str, Any] = {"inputs": {}} | dict.fromkeys(
            ("random_state", "rows", "packed", "again", "state")
        )
        own = [dataclasses.replace(micro, **apart) for micro in step.micro_steps]
        micros = [
            (number, step.micro_steps[k] if number == first else micro)
            for number, gathered in enumerate(all_gather(own))
            if number % group == 0
            for k, micro in enumerate(gathered)
        ]
        step.micro_steps = []
        for number, micro in micros:
            micro.rank = number
            step.micro_steps.append(micro)
