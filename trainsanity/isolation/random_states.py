"""Take random states and put them back: the global ones and an object's own."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainsanity.fields import is_indexable

if TYPE_CHECKING:
    pass


def random_states(owner: Any = None) -> Any:
    """A function that puts the random states back: the global ones, and those of an object's own.

    An owner's generator that does not exist yet is put back by forgetting it.
    """
    shared = global_random_states()
    before = {name: copy.deepcopy(value) for name, value in _generators(owner).items()}
    absent = {name for name, value in getattr(owner, "__dict__", {}).items() if value is None}

    def restore() -> None:
        shared()
        for name in _generators(owner):
            if name in before:
                setattr(owner, name, copy.deepcopy(before[name]))
            elif name in absent:
                setattr(owner, name, None)

    return restore


def _generators(owner: Any) -> dict[str, Any]:
    import numpy
    import torch

    kinds = (random.Random, numpy.random.Generator, numpy.random.RandomState, torch.Generator)
    attributes = getattr(owner, "__dict__", {})
    return {name: value for name, value in attributes.items() if isinstance(value, kinds)}


def global_random_states() -> Callable[[], None]:
    """Return a function that puts the random states of Python, numpy and torch back."""
    import numpy
    import torch

    python, np, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(python)
        numpy.random.set_state(np)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def first_row(dataset: Any) -> Any:
    """Return the first row, also of an iterable dataset; None if it cannot be read.

    Random states are restored: making a stream's iterator may draw from them.
    """
    put_back = random_states()
    try:
        return dataset[0] if is_indexable(dataset) else next(iter(dataset), None)
    except (Exception, SystemExit):  # the scan reads the rows, too, and says what is wrong
        return None
    finally:
        put_back()
