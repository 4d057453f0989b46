"""What holds an object, compared with what it held and filled with that again."""

from __future__ import annotations

import collections
import itertools
import operator
import types
from collections.abc import Iterator, Mapping
from typing import Any

from trainsanity.isolation.reachable import own_globals

MANY = 10_000
"""Elements of a container that are looked into; of a larger one the elements are noted alone, since
a walk through a million rows would take longer than the measurement that it guards.  Words and
numbers alone are copied once, see :mod:`.large`."""


class Mappings:
    """Very many dictionaries with what each held, compared at once.

    A model of 40 layers has tens of thousands.  What all of them hold is read in one chain, by the
    interpreter's own loops, without a line of Python for each.

    Args:
        held: pairs of a dictionary and a copy of it, which keeps what is compared alive.
    """

    def __init__(self, held: list[tuple[dict[Any, Any], dict[Any, Any]]]) -> None:
        # An ordered one has an order of its own, which ``dict``'s methods do not tell.
        ordered = [isinstance(one, collections.OrderedDict) for one, _ in held]
        self._ordered = [pair for pair, own in zip(held, ordered, strict=True) if own]
        self._plain = [one for (one, _), own in zip(held, ordered, strict=True) if not own]
        copies = [copy for (_, copy), own in zip(held, ordered, strict=True) if not own]
        self._lengths, self._contents = [*map(len, copies)], [*_contents(copies)]

    def stand(self) -> bool:
        """Return whether each holds the same objects under the same keys."""
        return (
            [*map(len, self._plain)] == self._lengths
            and all(map(operator.is_, _contents(self._plain), self._contents))
            and all(same(mapping, before) for mapping, before in self._ordered)
        )


def _contents(mappings: list[dict[Any, Any]]) -> Iterator[Any]:
    """Yield all values, then all keys."""
    chained = itertools.chain.from_iterable
    return itertools.chain(chained(map(dict.values, mappings)), chained(mappings))


def same(mapping: dict[Any, Any], held: dict[Any, Any]) -> bool:
    """Return whether a mapping holds the same objects."""
    return (
        len(mapping) == len(held)
        and all(map(operator.is_, mapping.values(), held.values()))
        # A vocabulary's values are its ids: where they are the same, so are its words.
        and (len(held) > MANY or all(map(operator.is_, mapping, held)))
    )


def holds(sequence: Any, elements: list[Any]) -> bool:
    """Return whether a list or deque holds these elements and no others."""
    return len(sequence) == len(elements) and all(map(operator.is_, sequence, elements))


def is_the_same(part: Any, before: Any) -> bool:
    """Return whether a part is, or a list made anew names, what it was."""
    lists = type(part) is list and type(before) is list
    return part is before or (lists and holds(part, before))


def are_the_same(some: set[Any], held: set[Any]) -> bool:
    """Return whether a set holds the same objects; their own ``__eq__`` is not asked."""
    return len(some) == len(held) and {*map(id, some)} == {*map(id, held)}


def in_slot(member: Any, obj: Any, value: Any) -> bool:
    """Return whether a slot holds this value."""
    try:
        return member.__get__(obj, type(obj)) is value
    except AttributeError:
        return False


def in_cell(cell: types.CellType, value: Any) -> bool:
    """Return whether a closure's variable is this value."""
    try:
        return cell.cell_contents is value
    except ValueError:
        return False


def as_many(named: Mapping[str, Any], number: int) -> bool:
    """Return whether there are as many names as there were."""
    return len(named) == number


def is_named(named: Mapping[str, Any], name: str, value: Any) -> bool:
    """Return whether a name stands for this value."""
    return named.get(name) is value


def uses(function: types.FunctionType, names: list[str]) -> bool:
    """Return whether a function uses these of its module's names, and no others."""
    return [*own_globals(function)] == names


def base_of(mapping: dict[Any, Any]) -> Any:
    """Return the built-in class whose methods know the mapping, whatever a subclass overrides."""
    return collections.OrderedDict if isinstance(mapping, collections.OrderedDict) else dict


def refill(mapping: dict[Any, Any], held: dict[Any, Any], attributes: bool = False) -> None:
    """Fill a mapping with what it held, in its order."""
    base = base_of(mapping)
    if attributes:
        # Never all gone, even for a moment: other threads may look at the object.
        for key in [key for key in mapping if key not in held]:
            del mapping[key]
        mapping.update(held)
        return
    base.clear(mapping)  # the order counts, too: of parameters, of hooks
    for key, value in held.items():
        base.__setitem__(mapping, key, value)


def reload(sequence: Any, elements: list[Any]) -> None:
    """Fill a list or deque with the elements that it held."""
    if isinstance(sequence, list):
        list.__setitem__(sequence, slice(None), elements)
    else:
        collections.deque.clear(sequence)
        collections.deque.extend(sequence, elements)


def reset(obj: set[Any], held: set[Any]) -> None:
    """Fill a set with what it held."""
    if len(obj) != len(held) or obj != held:
        set.clear(obj)
        set.update(obj, held)


def set_slot(member: Any, obj: Any, value: Any) -> None:
    """Put a value back into a slot."""
    if member.__get__(obj, type(obj)) is not value:
        member.__set__(obj, value)


def set_cell(cell: types.CellType, value: Any) -> None:
    """Put a value back into a closure's variable."""
    try:
        changed = cell.cell_contents is not value
    except ValueError:
        changed = True
    if changed:
        cell.cell_contents = value


def set_class_attribute(cls: type, name: str, value: Any) -> None:
    """Put a class's attribute back."""
    if vars(cls).get(name) is not value:
        setattr(cls, name, value)


def set_global(module: dict[str, Any], name: str, value: Any) -> None:
    """Put a module's name back."""
    if module.get(name) is not value:
        module[name] = value
