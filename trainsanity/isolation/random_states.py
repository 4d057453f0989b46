"""Save, restore and compare random states: the process's own and those that an object holds."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.fields import is_indexable

if TYPE_CHECKING:
    from torch import Tensor


def random_states(owner: Any = None) -> Callable[[], None]:
    """Return a function that restores the process's random states and the owner's generators.

    A generator that the owner makes later, in an attribute that is None now, is forgotten.
    """
    shared = global_random_states()
    before = {name: copy.deepcopy(value) for name, value in _generators(owner).items()}
    absent = {name for name, value in getattr(owner, "__dict__", {}).items() if value is None}
    read = [(one, _state(one)) for one in _read_by_code(owner)]

    def restore() -> None:
        shared()
        for one, state in read:
            _set_state(one, state)
        for name in _generators(owner):
            if name in before:
                setattr(owner, name, copy.deepcopy(before[name]))
            elif name in absent:
                setattr(owner, name, None)

    return restore


def _generators(owner: Any) -> dict[str, Any]:
    attributes = getattr(owner, "__dict__", {})
    return {name: value for name, value in attributes.items() if isinstance(value, _kinds())}


def _kinds() -> tuple[type, ...]:
    import numpy
    import torch

    return random.Random, numpy.random.Generator, numpy.random.RandomState, torch.Generator


def _read_by_code(owner: Any) -> list[Any]:
    """Return the generators that a function, or an object's methods, read from around them."""
    function = inspect.unwrap(getattr(owner, "__func__", owner))
    functions = [function] if inspect.isfunction(function) else [
        one for cls in type(owner).__mro__ for one in vars(cls).values() if inspect.isfunction(one)
    ]  # fmt: skip
    found = []
    for one in functions:
        try:
            read = inspect.getclosurevars(one)
        except ValueError:  # a variable of the function around it that has no value yet
            continue
        found += [*read.nonlocals.values(), *read.globals.values()]
    kinds = _kinds()
    return list({id(one): one for one in found if isinstance(one, kinds)}.values())


def _state(generator: Any) -> Any:
    if hasattr(generator, "bit_generator"):  # numpy's Generator
        return copy.deepcopy(generator.bit_generator.state)
    return next(
        getattr(generator, name)() for name in ("getstate", "get_state") if hasattr(generator, name)
    )


def _set_state(generator: Any, state: Any) -> None:
    if hasattr(generator, "bit_generator"):
        generator.bit_generator.state = copy.deepcopy(state)
    elif hasattr(generator, "setstate"):
        generator.setstate(state)
    else:
        generator.set_state(state)


def global_random_states() -> Callable[[], None]:
    """Return a function that restores the random states of Python, numpy and torch."""
    import numpy

    states = _states()

    def restore() -> None:
        random.setstate(states["python"])
        numpy.random.set_state(states["numpy"])
        set_torch_states(states["torch"], states.get("cuda"))

    return restore


def reseed(seed: int) -> None:
    """Begin the random numbers of Python, numpy and torch anew."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeds_seen() -> Iterator[list[int]]:
    """Note the seeds that torch's own generator is given in the block."""
    import torch

    seeds: list[int] = []
    own = torch.manual_seed

    def noting(seed: int) -> Any:
        seeds.append(int(seed))
        return own(seed)

    torch.manual_seed = torch.random.manual_seed = noting
    try:
        yield seeds
    finally:
        torch.manual_seed = torch.random.manual_seed = own


def random_hashes() -> dict[str, str]:
    """Return a hash of each of the process's random states, by library."""
    import xxhash

    states = _states()
    kind, key, *rest = states["numpy"]
    parts = {
        "python": [repr(states["python"]).encode()],
        "numpy": [key.tobytes(), repr((kind, *rest)).encode()],
        "torch": [states["torch"].numpy().tobytes()],
    }
    if "cuda" in states:
        parts["cuda"] = [state.numpy().tobytes() for state in states["cuda"]]
    return {name: xxhash.xxh3_64_hexdigest(b"".join(part)) for name, part in parts.items()}


def _states() -> dict[str, Any]:
    """Return the random states of Python, numpy and torch; CUDA's if it is in use."""
    import numpy

    cpu, cuda = torch_states()
    states = {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": cpu}
    return states if cuda is None else {**states, "cuda": cuda}


def torch_states() -> tuple[Tensor, list[Tensor] | None]:
    """Return torch's random states: the CPU's, and those of all GPUs or None if CUDA is not used.

    Asking for a GPU's state would initialise CUDA.
    """
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda


def set_torch_states(cpu: Tensor, cuda: list[Tensor] | None) -> None:
    """Restore what :func:`torch_states` returned."""
    import torch

    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


def first_row(dataset: Any) -> Any:
    """Return the first row, also of an iterable dataset; None if it cannot be read.

    Random states are restored, and what the dataset holds: making a row may draw, and count.
    """
    from trainsanity.isolation.rewind import Rewind

    restore, held = global_random_states(), Rewind([("dataset", dataset)], set())
    try:
        return dataset[0] if is_indexable(dataset) else next(iter(dataset), None)
    except (Exception, SystemExit):  # the scan reads the rows, too, and says what is wrong
        return None
    finally:
        restore()
        held.restore()
