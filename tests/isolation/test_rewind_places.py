"""Places where functions of the user's own keep state: noted, changed, put back."""

from __future__ import annotations

import contextvars
import functools
import random
import sqlite3
import threading
import weakref

import pytest
import torch

from trainsanity.isolation.rewind import Rewind, rewound


class Key:
    pass


def in_a_context_variable():
    variable = contextvars.ContextVar("one", default=0)
    return lambda: variable.set(variable.get() + 1), variable.get


def in_a_thread():
    local = threading.local()
    local.calls = [0]

    def change():
        local.calls[0] += 1

    return change, lambda: local.calls[0]


def by_weak_keys():
    key, counts = Key(), weakref.WeakKeyDictionary()
    counts[key] = [0]

    def change():
        counts[key][0] += 1
        counts[change] = 1

    return change, lambda: (len(counts), counts[key][0])


def behind_a_cache():
    generator = random.Random(1)
    drawn = functools.cache(lambda row: generator.random())
    return lambda: drawn(3), lambda: (drawn.cache_info().currsize, generator.getstate())


CALLS = contextvars.ContextVar("calls", default=0)
DRAWN = functools.cache(lambda row: random.random())


def in_globals():
    return (
        lambda: (CALLS.set(CALLS.get() + 1), DRAWN(1)),
        lambda: (CALLS.get(), DRAWN.cache_info().currsize),
    )


def in_the_closure_of_a_gradients_hook():
    weight, calls = torch.nn.Parameter(torch.ones(2)), 0

    def hook(gradient):
        nonlocal calls
        calls += 1

    weight.register_hook(hook)
    # The hook alone knows the number: it is reached through the tensor.
    return (lambda: weight.sum().backward()), lambda: calls, torch.nn.ParameterList([weight])


@pytest.mark.parametrize(
    "place",
    [
        in_a_context_variable,
        in_a_thread,
        by_weak_keys,
        behind_a_cache,
        in_globals,
        in_the_closure_of_a_gradients_hook,
    ],
    ids=lambda place: place.__name__,
)
def test_what_was_changed_is_put_back(place):
    change, state, *part = place()
    before = state()
    with rewound(part=part[0] if part else change):
        change()
        assert state() != before
    assert state() == before


def test_a_database_and_a_filled_cache_are_named():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table reads (n)")
    cached = functools.cache(lambda row: row)
    cached(1)

    def dataset(i):
        connection.execute("insert into reads values (1)")
        return cached(i)

    noted = Rewind([("dataset", dataset)], set())
    assert noted.restore() == []
    dataset(2)
    lost = sorted(noted.restore())
    assert len(lost) == 2
    assert lost[0].startswith("dataset.cached: has kept more results")
    assert lost[1] == "dataset.connection: was written to"
    connection.close()


def test_a_cache_of_a_library_is_left_alone():
    def dataset():
        return cached(2)

    cached = functools.cache(functools.wraps(torch.is_tensor)(lambda one: one))
    noted = Rewind([("dataset", dataset)], set())
    dataset()
    assert noted.restore() == []
    assert cached.cache_info().currsize == 1
