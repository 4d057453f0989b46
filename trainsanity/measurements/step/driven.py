"""Whether the scheduler that is stepped sets the rates of the optimizer that steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Driven:
    """A scheduler beside the optimizer that takes the steps.

    Attributes:
        scheduler: the name of its class.
        optimizer: the name of the class of the optimizer that it sets rates in.
        apart: it sets rates in groups that the optimizer in use does not have.
        warms: the optimizer in use has a warm-up of its own, as schedule-free ones do.
    """

    scheduler: str
    optimizer: str
    apart: bool
    warms: bool = False


def driven(optimizer: Any, scheduler: Any) -> Driven | None:
    """Compare the groups that a scheduler writes to with those that the optimizer steps by.

    None where there is no scheduler, or its optimizer is a stand-in that holds nothing of the
    kind: transformers makes one for optimizers that step layer by layer.
    """
    while (inner := getattr(scheduler, "scheduler", None)) is not None:  # accelerate wraps it
        scheduler = inner
    theirs = getattr(scheduler, "optimizer", None)
    if theirs is None or not getattr(theirs, "param_groups", None):
        return None
    own, written = _groups(optimizer), _groups(theirs)
    if not own:
        return None
    apart = not own.keys() & written.keys() and bool(_shapes(own) & _shapes(written))
    theirs = getattr(theirs, "optimizer", theirs)
    warms = any("warmup" in str(key) for group in own.values() for key in group)
    return Driven(type(scheduler).__name__, type(theirs).__name__, apart, warms)


def _groups(optimizer: Any) -> dict[int, Any]:
    """Return the groups of an optimizer and of those that it is made of, by identity.

    A wrapper (of accelerate, or one that looks ahead) may keep the groups of what it wraps.
    """
    return {id(group): group for one in _inside(optimizer, set()) for group in one.param_groups}


def _inside(optimizer: Any, seen: set[int]) -> Iterator[Any]:
    if id(optimizer) in seen or not isinstance(getattr(optimizer, "param_groups", None), list):
        return
    seen.add(id(optimizer))
    yield optimizer
    for value in list(getattr(optimizer, "__dict__", {}).values()):
        for one in value if isinstance(value, list | tuple) else (value,):
            yield from _inside(one, seen)


def _shapes(groups: dict[int, Any]) -> set[tuple[int, ...]]:
    return {tuple(p.shape) for group in groups.values() for p in group["params"]}
