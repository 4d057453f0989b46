"""State in datasets."""

from __future__ import annotations

import functools
import itertools
import random
import sqlite3
import tempfile
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .base import Rows, noisy, rows, trainer
from .oracle import Odd, state


@state(1)
def torch_generator() -> Odd:
    class Own(Rows):
        g = None

        def noise(self, i):
            return torch.randint(57, (), generator=self.g)

    made = Own()
    made.g = torch.Generator().manual_seed(1)
    return Odd(trainer(made), lambda: made.g.get_state().sum().item())


@state(2)
def numpy_generator() -> Odd:
    class Own(Rows):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(1)

        def noise(self, i):
            return self.rng.integers(57)

    made = Own()
    return Odd(trainer(made), lambda: str(made.rng.bit_generator.state))


@state(3)
def random_state_in_slots() -> Odd:
    class Holder:
        __slots__ = ("rng",)

    class Own(Rows):
        def noise(self, i):
            return self.holder.rng.randint(57)

    made = Own()
    made.holder = Holder()
    made.holder.rng = np.random.RandomState(1)
    return Odd(trainer(made), lambda: str(made.holder.rng.get_state()))


@state(4)
def closure() -> Odd:
    reads = 0

    def noise(i):
        nonlocal reads
        reads += 1
        return reads

    made = Rows()
    made.noise = noise
    return Odd(trainer(made), lambda: reads)


@state(5)
def class_attribute() -> Odd:
    class Own(Rows):
        reads = 0

        def noise(self, i):
            type(self).reads += 1
            return self.reads

    return Odd(trainer(Own()), lambda: Own.reads)


_reads = 0


def _global_noise(i: int) -> int:
    global _reads  # noqa: PLW0603 - that is the attack
    _reads += 1
    return _reads


@state(6)
def module_global() -> Odd:
    made = Rows()
    made.noise = _global_noise  # type: ignore[method-assign]
    return Odd(trainer(made), lambda: _reads)


@state(7)
def default_argument() -> Odd:
    def noise(i, seen=[0]):  # noqa: B006 - that is the attack
        seen[0] += 1
        return seen[0]

    made = Rows()
    made.noise = noise
    return Odd(trainer(made), lambda: noise.__defaults__[0][0])


@state(8)
def function_attribute() -> Odd:
    def noise(i):
        noise.calls += 1
        return noise.calls

    noise.calls = 0
    made = Rows()
    made.noise = noise
    return Odd(trainer(made), lambda: noise.calls)


@state(9)
def counted() -> Odd:
    made = Rows()
    made.counter = itertools.count()
    made.noise = lambda i: next(made.counter)
    return Odd(trainer(made), lambda: repr(made.counter))


@state(10)
def cached() -> Odd:
    rng = random.Random(1)

    @functools.lru_cache(None)
    def noise(i):
        return rng.randrange(57)

    made = Rows()
    made.noise = noise
    return Odd(trainer(made), lambda: str(hash(rng.getstate())))


@state(11)
def cycled() -> Odd:
    made = Rows()
    made.endless = itertools.cycle([3, 14, 15, 9, 26, 5, 35])
    made.noise = lambda i: next(made.endless)
    return Odd(trainer(made), lambda: None, named="endless")


@state(12)
def memory_mapped() -> Odd:
    path = Path(tempfile.mkdtemp(), "counts.bin")
    counts = np.memmap(path, dtype=np.int64, mode="w+", shape=(1,))
    made = Rows()
    made.counts = counts

    def noise(i):
        made.counts[0] += 1
        return int(made.counts[0])

    made.noise = noise
    return Odd(trainer(made), lambda: path.read_bytes().hex(), named="counts")


@state(13)
def database() -> Odd:
    made = Rows()
    made.db = sqlite3.connect(":memory:", check_same_thread=False)
    made.db.execute("create table reads (n)")

    def noise(i):
        made.db.execute("insert into reads values (1)")
        return made.db.execute("select count(*) from reads").fetchone()[0]

    made.noise = noise
    return Odd(
        trainer(made),
        lambda: made.db.execute("select count(*) from reads").fetchone()[0],
        named="db",
    )


@state(14)
def open_file() -> Odd:
    path = Path(tempfile.mkdtemp(), "noise.txt")
    path.write_text("".join(f"{i * 7919 % 57}\n" for i in range(100_000)))
    made = Rows()
    made.file = path.open()
    made.noise = lambda i: int(made.file.readline())
    return Odd(trainer(made), made.file.tell)


class _Stream(torch.utils.data.IterableDataset):
    pass


@state(15)
def stream_with_generator() -> Odd:
    class Own(_Stream):
        def __init__(self):
            self.g = torch.Generator().manual_seed(1)

        def __iter__(self):
            for row in rows():
                yield noisy(row, int(torch.randint(57, (), generator=self.g)))

    made = Own()
    return Odd(trainer(made), lambda: made.g.get_state().sum().item())


@state(16)
def one_generator_for_all() -> Odd:
    def endless():
        for i in itertools.count():
            yield noisy(rows(3)[i % 3], i)

    class Own(_Stream):
        def __init__(self):
            self.running = endless()

        def __iter__(self):
            return self.running

    # It may be refused by a sentence that names the dataset.
    return Odd(trainer(Own()), lambda: None, named="train_dataset")


@state(17)
def rows_in_place() -> Odd:
    class Own(Rows):
        def __init__(self):
            super().__init__()
            for row in self.rows:
                row["input_ids"] = np.array(row["input_ids"])

        def __getitem__(self, i):
            ids = self.rows[i]["input_ids"]
            ids[2] = 3 + (ids[2] + 1) % 57
            return {"input_ids": ids.tolist(), "label": self.rows[i]["label"]}

    made = Own()
    return Odd(trainer(made), lambda: [row["input_ids"].tolist() for row in made.rows])


@state(18)
def collator_pops() -> Odd:
    from .base import collate

    class Own(Rows):
        def __getitem__(self, i):
            return self.rows[i]

    def popping(items: list[dict[str, Any]]) -> Any:
        for item in items:
            if "label" in item:
                item["kept"] = item.pop("label")
        return collate([{**item, "label": item["kept"]} for item in items])

    made = Own()
    # TS310 is right to be red: the collator changes the training data.
    return Odd(trainer(made, popping), lambda: str(made.rows), green=(0, 1))


@state(19)
def arrays() -> Odd:
    made = Rows()
    made.counts, made.raw = array("l", [0]), bytearray(1)

    def noise(i):
        made.counts[0] += 1
        made.raw[0] = (made.raw[0] + 3) % 250
        return made.counts[0] + made.raw[0]

    made.noise = noise
    return Odd(trainer(made), lambda: (made.counts.tolist(), list(made.raw)))
