"""How the state of one object is noted and put back, by what it is."""

from __future__ import annotations

import array
import ast
import contextvars
import copy
import ctypes
import functools
import io
import itertools
import multiprocessing.sharedctypes
import operator
import random
import sqlite3
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trainsanity.isolation.reachable import is_own

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1 << 20
"""Bytes of a tensor that is copied and compared every time.  Of a larger one the copy is kept for
as long as torch counts no write to it."""


class Budget(Protocol):
    """Bytes that may still be copied, and the tensors that somebody else puts back."""

    room: int

    def is_elsewhere(self, tensor: Any) -> bool:
        """Return whether somebody else puts this tensor's values back."""


@dataclass(frozen=True)
class Lost:
    """State that can be seen to have changed, and not be put back."""

    changed: Callable[[], bool]
    why: str


READ_ON = "has been read on and cannot be wound back"
TOO_LARGE = "was written to, and is too large to be copied beforehand"

_kept: Any = None
"""Copies of large tensors with the count of their writes; made with the first, torch's own kind of
dictionary."""

Noted = Callable[[], None] | Lost | None


@functools.lru_cache(maxsize=4096)
def note_for(cls: type) -> Callable[[Any, Budget], Noted] | None:
    """Return what notes the state of such objects; None for those with attributes alone."""
    return next((note for kinds, note in _table() if issubclass(cls, kinds)), None)


@functools.cache
def iterator_types() -> frozenset[type]:
    """Return the types of iterators that a copy can stand in for."""
    some: tuple[Any, ...] = ([], (), range(0), "", b"", set(), {}, {}.items(), {}.values())
    return frozenset({*(type(iter(one)) for one in some), itertools.count})


def wound_back(iterator: Any, put: Callable[[Any], None]) -> Callable[[], None]:
    """Return what puts a copy, made now, in the iterator's place if it has been read on.

    Args:
        iterator: of :func:`iterator_types`.
        put: sets it where it was found.
    """
    held, spare = _place(iterator), _copied(iterator)

    def restore() -> None:
        if _place(iterator) != held:
            put(_copied(spare))

    return restore


def _place(iterator: Any) -> Any:
    if isinstance(iterator, itertools.count):
        return repr(iterator)
    return operator.length_hint(iterator)


def _copied(iterator: Any) -> Any:
    if isinstance(iterator, itertools.count):  # newer Pythons do not copy it
        return itertools.count(*ast.literal_eval(f"({repr(iterator)[len('count(') : -1]},)"))
    return copy.copy(iterator)


@functools.cache
def _table() -> list[tuple[Any, Callable[[Any, Budget], Noted]]]:
    import numpy
    import torch
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    onward = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
    chained = (map, filter, zip, enumerate, reversed, itertools.cycle, itertools.chain,
               itertools.islice, itertools.starmap, itertools.takewhile, itertools.dropwhile,
               _BaseDataLoaderIter)  # fmt: skip
    return [
        (torch.Tensor, _tensor),
        (torch.Generator, _torch_generator),
        (random.Random, _python_generator),
        (numpy.ndarray, _numpy_array),
        (numpy.random.Generator, lambda obj, _: _bit_generator(obj.bit_generator)),
        (numpy.random.BitGenerator, lambda obj, _: _bit_generator(obj)),
        (numpy.random.RandomState, _random_state),
        ((bytearray, array.array), _buffer),
        (onward, _generator),
        (chained, lambda obj, _: Lost(lambda: True, "is an iterator that cannot be wound back")),
        (io.IOBase, _stream),
        (contextvars.ContextVar, _context_variable),
        (functools._lru_cache_wrapper, _cache),
        (sqlite3.Connection, _database),
        ((ctypes._SimpleCData, ctypes.Array, ctypes.Structure), _c_data),
        (multiprocessing.sharedctypes.SynchronizedBase, lambda obj, _: _c_data(obj.get_obj(), _)),
    ]


def _tensor(tensor: Tensor, budget: Budget) -> Noted:
    import torch

    from trainsanity.isolation.shards import is_sharded

    leaf = _leaf(tensor)
    if tensor.is_meta or tensor.is_inference() or budget.is_elsewhere(tensor):
        return leaf
    size = tensor.numel() * tensor.element_size()
    version = tensor._version
    if size > budget.room or is_sharded(tensor) or _pointer(tensor) is None:
        return Lost(lambda: tensor._version != version, TOO_LARGE)
    budget.room -= size
    held = tensor.detach().clone() if size <= SMALL else _copy_of_large(tensor)
    gradient = tensor.grad if tensor.is_leaf else None
    values = None if gradient is None else gradient.clone()

    def restore() -> None:
        if leaf is not None:
            leaf()
        with torch.no_grad():
            if tensor.is_leaf and (tensor.grad is not gradient or gradient is not None):
                tensor.grad = gradient
                if gradient is not None and values is not None:
                    gradient.copy_(values)
            if tensor._version != version or (size <= SMALL and not _equal_bits(tensor, held)):
                tensor.detach().copy_(held)

    return restore


LEAF_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def hooks_of(obj: Any) -> list[Any]:
    """Return the hooks of a tensor, which no dictionary of attributes holds; none of other objects.

    They are functions of the user's own, and count in a closure as any other.
    """
    import torch

    if not isinstance(obj, torch.Tensor) or not obj.is_leaf:
        return []
    return [hook for kind in LEAF_HOOKS for hook in (getattr(obj, kind, None) or {}).values()]


def _leaf(tensor: Tensor) -> Callable[[], None] | None:
    """Return what puts a leaf's hooks and its gradient flag back; None for other tensors."""
    if not tensor.is_leaf:
        return None
    hooks = [(kind, getattr(tensor, kind, None)) for kind in LEAF_HOOKS]
    held = [dict(found) if found else {} for _, found in hooks]
    trains = tensor.requires_grad

    def restore() -> None:
        for (kind, _), before in zip(hooks, held, strict=True):
            now = getattr(tensor, kind, None)
            if now is not None and dict(now) != before:
                now.clear()
                now.update(before)
        if tensor.requires_grad != trains:
            tensor.requires_grad_(trains)

    return restore


def _pointer(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    import torch

    # A column of a table stays a view with gaps where it is made flat, and has no bytes in a row.
    flat = [x.detach().reshape(-1).contiguous().view(torch.uint8) for x in (one, other)]
    return bool(torch.equal(*flat)) if one.numel() else True


def _copy_of_large(tensor: Tensor) -> Tensor:
    global _kept  # noqa: PLW0603
    from torch.utils.weak import WeakTensorKeyDictionary

    if _kept is None:
        _kept = WeakTensorKeyDictionary()
    before = _kept.get(tensor)
    stamp = (tensor._version, tensor.data_ptr(), tensor.shape, tensor.dtype)
    if before is None or before[0] != stamp:
        before = _kept[tensor] = (stamp, tensor.detach().to("cpu", copy=True))
    held: Tensor = before[1]
    return held


def _torch_generator(generator: Any, _: Budget) -> Noted:
    held = generator.get_state()

    def restore() -> None:
        import torch

        if not torch.equal(generator.get_state(), held):
            generator.set_state(held)

    return restore


def _python_generator(generator: random.Random, _: Budget) -> Noted:
    try:
        held = generator.getstate()
    except NotImplementedError:  # SystemRandom has no state
        return None

    def restore() -> None:
        if generator.getstate() != held:
            generator.setstate(held)

    return restore


def _bit_generator(generator: Any) -> Noted:
    held = copy.deepcopy(generator.state)

    def restore() -> None:
        generator.state = held

    return restore


def _random_state(generator: Any, _: Budget) -> Noted:
    held = generator.get_state(legacy=False)
    return lambda: generator.set_state(held)


def _numpy_array(values: Any, budget: Budget) -> Noted:
    if not values.flags.writeable or values.dtype.hasobject:
        return None
    if values.nbytes > min(budget.room, 16 * SMALL):  # numpy counts no writes
        return Lost(lambda: True, "is too large to be compared")
    budget.room -= values.nbytes
    held = values.copy()

    def restore() -> None:
        if values.tobytes() != held.tobytes():
            values[...] = held

    return restore


def _buffer(values: Any, budget: Budget) -> Noted:
    held = values[:]

    def restore() -> None:
        if values != held:
            values[:] = held

    return restore


def _generator(generator: Any, _: Budget) -> Noted:
    held = _frame(generator)
    return Lost(lambda: _frame(generator) != held, READ_ON)


def _frame(generator: Any) -> Any:
    """Return where a generator stands, and which objects its variables name."""
    frame = next((getattr(generator, name) for name in ("gi_frame", "cr_frame", "ag_frame")
                  if hasattr(generator, name)), None)  # fmt: skip
    if frame is None:
        return None
    return frame.f_lasti, [(name, id(value)) for name, value in frame.f_locals.items()]


def _stream(stream: Any, _: Budget) -> Noted:
    try:
        if not (stream.readable() and stream.seekable()):
            return None
        held = stream.tell()
    except (OSError, ValueError):  # closed, or in the middle of an iteration
        return None

    def restore() -> None:
        try:
            same = stream.tell() == held
        except OSError:  # Python tells no place in the middle of an iteration over lines
            same = False
        if not same:
            stream.seek(held)

    return restore


def _c_data(value: Any, _: Budget) -> Noted:
    held = bytes(memoryview(value).cast("B"))

    def restore() -> None:
        if bytes(memoryview(value).cast("B")) != held:
            ctypes.memmove(ctypes.addressof(value), held, len(held))

    return restore


MISSING = object()
"""What a variable without a value is noted as."""


def _context_variable(variable: contextvars.ContextVar[Any], _: Budget) -> Noted:
    held = variable.get(MISSING)
    if held is MISSING:
        try:
            # Where nothing was ever set it has its default; nothing else can unset a variable.
            held = contextvars.Context().run(variable.get)
        except LookupError:
            return Lost(lambda: variable.get(MISSING) is not MISSING, "was set")

    def restore() -> None:
        if variable.get(held) is not held:
            variable.set(held)

    return restore


def _cache(function: Any, _: Budget) -> Noted:
    """Note what ``functools.lru_cache`` keeps: an empty one can be emptied, and no other undone."""
    if not is_own(getattr(function, "__module__", None) or "builtins"):
        return None
    held = function.cache_info()
    if held.currsize:
        return Lost(
            lambda: function.cache_info().misses != held.misses,
            "has kept more results, which cannot be taken out",
        )

    def restore() -> None:
        if function.cache_info().currsize:
            function.cache_clear()

    return restore


def _database(connection: sqlite3.Connection, _: Budget) -> Noted:
    held = connection.total_changes
    return Lost(lambda: connection.total_changes != held, "was written to")
