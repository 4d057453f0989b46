"""Containers of very many words or numbers, such as a vocabulary, copied once and not in each walk.

A tokenizer has 150,000 words and as many merges.  A pipeline is walked through two hundred times
while it is judged; to copy both each time, and to compare each element by identity, took more than
a quarter of all that a tiny model's checks take.  Lists are compared here as Python compares them,
which looks at identities first and is forty times as fast.
"""

from __future__ import annotations

import itertools
from typing import Any

PLAIN = frozenset({type(None), int, str, bytes})
"""Types whose equal values are the same to everybody, and are compared by no code of a user's."""

KEPT = 16
"""Containers whose copies are kept; a run that makes new ones all the time begins anew."""


class Copied:
    """A container and what it held when it was copied."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.copy = container.copy()
        self._values = _values_of(self.copy)

    @property
    def is_plain(self) -> bool:
        """Whether it holds plain values alone, or tuples of them alone."""
        kinds = {*map(type, self._values)}
        if kinds == {tuple}:
            kinds = {*map(type, itertools.chain.from_iterable(self._values))}
        return kinds <= PLAIN

    def is_current(self) -> bool:
        """Return whether the container holds that still.

        A vocabulary's values are its ids: where they are the same, so are its words.
        """
        return bool(_values_of(self.container) == self._values)


class Large:
    """Copies of a pipeline's large containers, which serve for as long as they are current."""

    def __init__(self) -> None:
        self._kept: dict[int, Copied] = {}

    def copied(self, container: Any) -> Copied | None:
        """Return a current copy; None of a container that holds objects, or is no list or dict."""
        if type(container) not in (list, dict):
            return None
        known = self._kept.get(id(container))
        if known is not None and known.container is container and known.is_current():
            return known
        made = Copied(container)
        if not made.is_plain:
            return None
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[id(container)] = made
        return made


def _values_of(container: Any) -> list[Any]:
    return [*container.values()] if type(container) is dict else container
