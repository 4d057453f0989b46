"""State in collators and samplers.

A collator that puts noise into rows is red, and rightly: TS302, "does not return its rows".  What
is asked here is the state.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import os
import random
import threading
import weakref
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer

from .base import collate, noisy, trainer
from .oracle import Odd, state

RED = (0, 1)


def _with(noise):
    """A collator that puts noise into every row."""
    return lambda items: collate([noisy(item, int(noise())) for item in items])


@state(20)
def closure() -> Odd:
    rng = random.Random(1)
    return Odd(
        trainer(None, _with(lambda: rng.randrange(57))), lambda: hash(rng.getstate()), green=RED
    )


@state(21)
def partial() -> Odd:
    def call(items, seen):
        seen["n"] += 1
        return collate([noisy(item, seen["n"]) for item in items])

    made = functools.partial(call, seen={"n": 0})
    return Odd(trainer(None, made), lambda: made.keywords["seen"]["n"], green=RED)


@state(22)
def bound_method() -> Odd:
    class Mixer:
        def __init__(self):
            self.rng = np.random.default_rng(1)

        def put(self, items):
            return collate([noisy(item, int(self.rng.integers(57))) for item in items])

    made = Mixer()
    return Odd(trainer(None, made.put), lambda: str(made.rng.bit_generator.state), green=RED)


@state(23)
def order_of_keys() -> Odd:
    order = OrderedDict((i * 7 % 57, None) for i in range(20))

    def noise():
        first = next(iter(order))
        order.move_to_end(first)
        return first

    return Odd(trainer(None, _with(noise)), lambda: list(order), green=RED)


@state(24)
def nested() -> Odd:
    lengths, groups = {0}, defaultdict(list)

    def noise():
        lengths.add(len(lengths) * 3)
        groups[len(lengths) % 5].append(len(lengths))
        return len(lengths) + len(groups[3])

    return Odd(trainer(None, _with(noise)), lambda: (sorted(lengths), dict(groups)), green=RED)


@state(25)
def module() -> Odd:
    class Mixer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, items):
            self.n = self.n + 1
            return collate([noisy(item, int(self.n)) for item in items])

    made = Mixer()
    return Odd(trainer(None, made), lambda: int(made.n), green=RED)


@state(26)
def frozen() -> Odd:
    @dataclass(frozen=True)
    class Mixer:
        n: int = 0

        def __call__(self, items):
            object.__setattr__(self, "n", self.n + 1)
            return collate([noisy(item, self.n) for item in items])

    made = Mixer()
    return Odd(trainer(None, made), lambda: made.n, green=RED)


@state(27)
def locked() -> Odd:
    class Mixer:
        def __init__(self):
            self.__dict__["n"] = 0

        def __setattr__(self, name, value):
            raise AttributeError("locked")

        def __call__(self, items):
            self.__dict__["n"] += 1
            return collate([noisy(item, self.n) for item in items])

    made = Mixer()
    return Odd(trainer(None, made), lambda: made.n, green=RED)


@state(28)
def counting_dict() -> Odd:
    class Counting(dict):
        writes = 0

        def __setitem__(self, key, value):
            self.writes += 1
            super().__setitem__(key, value)

    made = Counting()

    def noise():
        made["last"] = made.get("last", 0) + 5
        return made["last"] + made.writes

    return Odd(trainer(None, _with(noise)), lambda: (dict(made), made.writes), green=RED)


@state(29)
def no_equality() -> Odd:
    class Odder:
        __hash__ = None
        n = 0

        def __eq__(self, other):
            raise RuntimeError("cannot be compared")

    made = Odder()

    def noise():
        made.n += 1
        return made.n

    return Odd(trainer(None, _with(noise)), lambda: made.n, green=RED)


@state(30)
def enum_member() -> Odd:
    class Kind(enum.Enum):
        A = 1

    Kind.A.n = 0

    def noise():
        Kind.A.n += 1
        return Kind.A.n

    return Odd(trainer(None, _with(noise)), lambda: Kind.A.n, green=RED)


@state(31)
def context_variable() -> Odd:
    var = contextvars.ContextVar("attack_var", default=0)

    def noise():
        var.set(var.get() + 1)
        return var.get()

    return Odd(trainer(None, _with(noise)), var.get, named="attack_var", green=RED)


@state(32)
def thread_local() -> Odd:
    local = threading.local()
    local.n = 0

    def noise():
        local.n += 1
        return local.n

    return Odd(trainer(None, _with(noise)), lambda: local.n, green=RED)


@state(33)
def environment() -> Odd:
    os.environ["ATTACK_N"] = "0"

    def noise():
        os.environ["ATTACK_N"] = str(int(os.environ["ATTACK_N"]) + 1)
        return os.environ["ATTACK_N"]

    return Odd(trainer(None, _with(noise)), lambda: os.environ["ATTACK_N"], green=RED)


@state(34)
def file_of_counts() -> Odd:
    path = Path("counts.txt")
    path.write_text("0")

    def noise():
        path.write_text(str(int(path.read_text()) + 1))
        return path.read_text()

    return Odd(trainer(None, _with(noise)), path.read_text, named="counts.txt", green=RED)


@state(35)
def weak_keys() -> Odd:
    class Key:
        pass

    key, counts = Key(), weakref.WeakKeyDictionary()
    counts[key] = 0

    def noise():
        counts[key] += 1
        return counts[key]

    return Odd(trainer(None, _with(noise)), lambda: counts[key], green=RED)


class _Epochs(torch.utils.data.Sampler):
    def __init__(self, n):
        self.n, self.epoch = n, 0

    def __len__(self):
        return self.n

    def __iter__(self):
        self.epoch += 1
        g = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(self.n, generator=g).tolist()


@state(36)
def sampler() -> Odd:
    class Own(Trainer):
        def _get_train_sampler(self, *rest):
            return self.__dict__.setdefault("own", _Epochs(len(self.train_dataset)))

    made = trainer(cls=Own)
    made._get_train_sampler()
    return Odd(made, lambda: made.own.epoch)


@state(37)
def one_loader() -> Odd:
    class Own(Trainer):
        def get_train_dataloader(self):
            return self.loader

    made = trainer(cls=Own)
    g = torch.Generator().manual_seed(1)
    made.loader = torch.utils.data.DataLoader(
        made.train_dataset, 4, shuffle=True, collate_fn=collate, generator=g
    )
    return Odd(made, lambda: g.get_state().sum().item())
