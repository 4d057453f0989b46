"""Put back what a pipeline's own objects hold: attributes, containers, generators, tensors.

A model is not all that a step changes.  A dataset draws from a generator of its own, a collator
counts, a module assigns a buffer anew, an optimizer keeps moments.  :class:`Rewind` walks from the
pipeline's parts through attributes, containers, closures and the globals of the user's own
functions, and notes what each object holds.  Nothing of the user's is called for that, neither
``__eq__`` nor ``__getstate__``; identities stay what they were, so that two holders of one list
still hold one list.

An example: ``collate.seen`` is a list, and a step appends to it.  Its elements were noted, the
list is found to hold others, and is refilled: ``collate.seen`` is the same list as before, with the
same elements in it.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import operator
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from trainsanity.isolation.held import (
    MANY,
    Mappings,
    are_the_same,
    as_many,
    base_of,
    holds,
    in_cell,
    in_slot,
    is_named,
    is_the_same,
    refill,
    reload,
    reset,
    same,
    set_cell,
    set_class_attribute,
    set_global,
    set_slot,
    uses,
)
from trainsanity.isolation.kinds import (
    Lost,
    Noted,
    hooks_of,
    iterator_types,
    note_for,
    wound_back,
)
from trainsanity.isolation.large import Copied, Large
from trainsanity.isolation.reachable import (
    ATOMS,
    Path,
    is_opaque,
    is_own,
    own_classes,
    own_globals,
    slots_of,
    words,
)

ENOUGH = 300_000
"""Objects of one walk, as many as a second is enough for."""


class Rewind:
    """Notes what the objects that are reachable from some parts hold, and puts it back.

    Args:
        parts: by the name that a report gives them.
        elsewhere: ids of tensors whose values somebody else puts back.
        room: bytes of tensors and arrays that may be copied.
        apart: objects that are not looked into.
        large: copies of large containers from earlier walks.
    """

    def __init__(
        self,
        parts: Iterable[tuple[str, Any]],
        elsewhere: set[int],
        room: int = 1 << 31,
        apart: Iterable[Any] = (),
        large: Large | None = None,
    ) -> None:
        self._parts, self._elsewhere = [*parts], elsewhere
        self.room = self._room = room
        self._large = Large() if large is None else large
        self._copied: list[Copied] = []
        self._restorers: list[Callable[[], None]] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any], bool]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._empty: list[Any] = []
        self._leaves: list[tuple[Any, Path, Callable[[Any, Any], Noted], list[Any]]] = []
        self._iterators: list[tuple[Any, Callable[[Any], None]]] = []
        self._standing: list[Callable[[], bool]] = []
        """Whether what leads on to other objects leads to the same ones still."""
        self._seen: dict[int, Any] = {id(one): one for one in apart}
        self._stack: list[tuple[Any, Path]] = [(part, (None, name)) for name, part in self._parts]
        while self._stack and len(self._seen) < ENOUGH:
            obj, path = self._stack.pop()
            if id(obj) not in self._seen:
                self._seen[id(obj)] = obj
                self._note(obj, path)
        self._mappings = Mappings([(mapping, held) for mapping, held, _ in self._dicts])
        self._note_leaves()

    def renewed(self, parts: Iterable[tuple[str, Any]], elsewhere: set[int]) -> Rewind | None:
        """Return what notes the state as it is now, without another walk.

        Args:
            parts: as those of the walk.
            elsewhere: as that of the walk.

        Returns:
            None where the walk would come to other objects, or attributes and elements are others.
        """
        if elsewhere != self._elsewhere or not self._stands([*parts]):
            return None
        other = copy.copy(self)
        other.room = self._room
        other._note_leaves()
        return other

    def forget(self) -> Rewind:
        """Return the walk alone, without the values of tensors and generators, to be renewed."""
        other = copy.copy(self)
        other._last, other._watched = [], []
        return other

    def _stands(self, parts: list[tuple[str, Any]]) -> bool:
        return (
            len(parts) == len(self._parts)
            and all(
                one[0] == other[0] and is_the_same(one[1], other[1])
                for one, other in zip(parts, self._parts, strict=True)
            )
            and self._mappings.stand()
            and all(holds(sequence, elements) for sequence, elements in self._lists)
            and not any(self._empty)
            and all(one.is_current() for one in self._copied)
            and all(stands() for stands in self._standing)
            and all(hooks_of(obj) == hooks for obj, _, _, hooks in self._leaves)
        )

    def _note_leaves(self) -> None:
        """Note the values of what leads nowhere: generators, tensors, streams, iterators."""
        self._last: list[Callable[[], None]] = []
        self._watched: list[tuple[Path, Callable[[], bool], str]] = []
        for obj, path, note, _ in self._leaves:
            known = note(obj, self)
            if isinstance(known, Lost):
                self._watched.append((path, known.changed, known.why))
            elif known is not None:
                self._last.append(known)
        self._last += [wound_back(iterator, put) for iterator, put in self._iterators]

    def restore(self) -> list[str]:
        """Put everything back; return a sentence for each thing that could not be.

        Raises:
            Exception: what an object raised when its state was set; the others are put back.
        """
        errors: list[Exception] = []
        for mapping, held, attributes in () if self._mappings.stand() else self._dicts:
            if not same(mapping, held):
                _attempt(functools.partial(refill, mapping, held, attributes), errors)
        for sequence, elements in self._lists:
            if not holds(sequence, elements):
                _attempt(functools.partial(reload, sequence, elements), errors)
        for one in self._copied:
            if not one.is_current():
                put = reload if isinstance(one.container, list) else refill
                _attempt(functools.partial(put, one.container, one.copy), errors)
        for container in self._empty:
            if container:
                container.clear()
        # Those last: they stand in containers and closures, which have just been refilled.
        for restore in (*self._restorers, *self._last):
            _attempt(restore, errors)
        lost = [f"{words(path)}: {why}" for path, changed, why in self._watched if _asked(changed)]
        if errors:
            raise errors[0]
        return lost

    def _note(self, obj: Any, path: Path) -> None:
        # By type() and not by isinstance(), which asks a property of the user's own.
        cls: Any = type(obj)
        if cls is types.FunctionType:
            self._function(obj, path)
        elif cls is types.MethodType:
            self._push(obj.__self__, path, "")
            self._push(obj.__func__, path, "")
        elif issubclass(cls, type):
            self._class(obj, path)
        elif not issubclass(cls, types.ModuleType):
            self._contents(obj, path)
            if not is_opaque(cls):
                self._object(obj, path)

    def _contents(self, obj: Any, path: Path) -> None:
        """Note what an object holds besides attributes."""
        cls: Any = type(obj)
        if cls in (list, dict) and len(obj) > MANY and (copied := self._large.copied(obj)):
            self._copied.append(copied)
        elif issubclass(cls, dict):
            self._dict(obj, path)
        elif issubclass(cls, (list, collections.deque)):
            self._lists.append((obj, list(obj)))
            self._elements(obj, path)
        elif issubclass(cls, (set, frozenset, tuple)):
            if issubclass(cls, set):
                held = set(obj)
                self._restorers.append(functools.partial(reset, obj, held))
                self._standing.append(functools.partial(are_the_same, obj, held))
            self._elements(obj, path)
        elif issubclass(cls, functools.partial):
            for held in (obj.func, obj.args, obj.keywords):
                self._push(held, path, "")
        elif issubclass(cls, WEAK):
            self._push(obj.data, path, "")  # keys are references, which the dictionary holds
        elif (note := note_for(cls)) is not None:
            hooks = hooks_of(obj)
            self._leaves.append((obj, path, note, hooks))
            for hook in hooks:
                self._push(hook, path, "")

    def is_elsewhere(self, tensor: Any) -> bool:
        """Return whether somebody else puts this tensor's values back."""
        return id(tensor) in self._elsewhere

    def _dict(self, obj: dict[Any, Any], path: Path, attributes: bool = False) -> None:
        held = obj.copy() if type(obj) is dict else dict(base_of(obj).items(obj))
        self._dicts.append((obj, held, attributes))
        if len(held) > MANY or not _leads_on(held.values()):
            return
        for name, value in held.items():
            kind = type(value)
            if kind in ATOMS:
                continue
            if kind in (dict, collections.OrderedDict) and not value:
                self._empty.append(value)  # most of a module's dictionaries of hooks
                continue
            word = f".{name}" if attributes else f"[{name!r}]"
            self._push(value, path, word, functools.partial(base_of(obj).__setitem__, obj, name))

    def _elements(self, obj: Any, path: Path) -> None:
        if len(obj) > MANY or not _leads_on(obj):
            return
        settable = isinstance(obj, (list, collections.deque))
        for number, value in enumerate(obj):
            put = functools.partial(operator.setitem, obj, number) if settable else None
            self._push(value, path, f"[{number}]", put)

    def _object(self, obj: Any, path: Path) -> None:
        cls: Any = type(obj)
        attributes = _attributes(obj)
        if attributes is not None and id(attributes) not in self._seen:
            self._seen[id(attributes)] = attributes
            self._dict(attributes, path, attributes=True)
        for member in slots_of(cls):
            with contextlib.suppress(AttributeError):
                value = member.__get__(obj, cls)
                self._restorers.append(functools.partial(set_slot, member, obj, value))
                self._standing.append(functools.partial(in_slot, member, obj, value))
                put = functools.partial(member.__set__, obj)
                self._push(value, path, f".{member.__name__}", put)
        for one in own_classes(cls):
            self._push(one, None, one.__name__)

    def _class(self, cls: type, path: Path) -> None:
        if not is_own(getattr(cls, "__module__", "builtins")):
            return
        self._standing.append(functools.partial(as_many, vars(cls), len(vars(cls))))
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType):
                self._push(function, path, f".{name}")
            elif not name.startswith("__") and not hasattr(type(value), "__get__"):
                self._restorers.append(functools.partial(set_class_attribute, cls, name, value))
                self._standing.append(functools.partial(is_named, vars(cls), name, value))
                self._push(value, path, f".{name}", functools.partial(setattr, cls, name))

    def _function(self, function: types.FunctionType, path: Path) -> None:
        own = is_own(function.__module__ or "builtins")
        ours = (function.__module__ or "").partition(".")[0] == "trainsanity"
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            with contextlib.suppress(ValueError):  # an empty cell
                value = cell.cell_contents
                if ours and not callable(value):
                    continue
                self._standing.append(functools.partial(in_cell, cell, value))
                if own:
                    self._restorers.append(functools.partial(set_cell, cell, value))
                self._push(
                    value, path, f".{name}", functools.partial(setattr, cell, "cell_contents")
                )
        if vars(function) and not ours:
            self._dict(vars(function), path, attributes=True)
        if not own:
            return
        self._standing.append(functools.partial(uses, function, [*own_globals(function)]))
        for held in (function.__defaults__, function.__kwdefaults__):
            self._push(held, path, "")
        module = function.__globals__
        for name in own_globals(function):
            value = module[name]
            self._restorers.append(functools.partial(set_global, module, name, value))
            self._standing.append(functools.partial(is_named, module, name, value))
            if _is_state(value):
                put = functools.partial(module.__setitem__, name)
                self._push(value, None, f"{function.__module__}.{name}", put)

    def _push(
        self, value: Any, path: Path, name: str, put: Callable[[Any], None] | None = None
    ) -> None:
        kind = type(value)
        if kind in ATOMS:
            return
        if put is not None and kind in iterator_types():
            self._iterators.append((value, put))
        else:
            self._stack.append((value, (path, name)))


@contextlib.contextmanager
def rewound(**parts: Any) -> Iterator[None]:
    """Put back at the end of the block what these objects hold: for a call of the user's own."""
    noted = Rewind(parts.items(), set())
    try:
        yield
    finally:
        noted.restore()


def _leads_on(values: Iterable[Any]) -> bool:
    """Return whether there is more than atoms; a vocabulary of 150,000 has nothing else."""
    return not ATOMS.issuperset(map(type, values))


WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)


STATE = (
    "_contextvars", "_thread", "_weakrefset", "array", "builtins", "collections", "ctypes",
    "itertools", "numpy", "random", "sqlite3", "torch", "weakref",
)  # fmt: skip
"""Packages whose objects may be a run's state where a function finds them among its globals."""


def _is_state(value: Any) -> bool:
    """Return whether a global may be the run's: a container, a generator, or an own object."""
    named = (type, types.FunctionType, functools._lru_cache_wrapper)
    holder = value if isinstance(value, named) else type(value)
    module = getattr(holder, "__module__", "") or ""
    return module.partition(".")[0] in STATE or is_own(module)


def _attributes(obj: Any) -> dict[str, Any] | None:
    # What a thread keeps for itself is told by the method of its own class alone.
    base: Any = threading.local if issubclass(type(obj), threading.local) else object
    try:
        found = base.__getattribute__(obj, "__dict__")
    except (AttributeError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _attempt(restore: Callable[[], None], errors: list[Exception]) -> None:
    try:
        restore()
    except Exception as error:
        errors.append(error)


def _asked(changed: Callable[[], bool]) -> bool:
    try:
        return changed()
    except Exception:
        return True
