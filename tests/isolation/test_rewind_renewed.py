"""An earlier walk serves again where it would come by the same objects, and only there."""

from __future__ import annotations

import collections
import random
import types

import pytest
import torch

from trainsanity.isolation.rewind import Rewind
from trainsanity.isolation.snapshot import WALKS, reachable_state
from trainsanity.pipeline import Pipeline


class Slotted:
    __slots__ = ("held",)

    def __init__(self):
        self.held = [1]


class Holder:
    """One of everything that leads on to other objects."""

    shared = None

    def __init__(self):
        self.words = {"a": 1}
        self.ordered = collections.OrderedDict(a=object(), b=object())
        self.rows = [object(), object()]
        self.queue = collections.deque([object()])
        self.some = {"x", ("y",)}
        self.nothing = {}
        self.slotted = Slotted()
        self.generator = random.Random(0)
        self.tensor = torch.zeros(3, requires_grad=True)
        self.draws = iter([1, 2, 3])
        inside = [1]
        self.closure = types.FunctionType(
            (lambda: inside).__code__, globals(), None, None, (lambda: inside).__closure__
        )


def noted(holder):
    return Rewind([("holder", holder)], set())


def again(walk, holder):
    return walk.forget().renewed([("holder", holder)], set())


def set_cell(holder):
    holder.closure.__closure__[0].cell_contents = [2]


CHANGES = {
    "an attribute": lambda h: setattr(h, "words", {}),
    "a new attribute": lambda h: setattr(h, "more", 1),
    "a dictionary's value": lambda h: h.words.update(a=2),
    "a dictionary's key": lambda h: h.words.update(b=h.words.pop("a")),
    "the order of an ordered one": lambda h: h.ordered.move_to_end("a"),
    "a list": lambda h: h.rows.append(1),
    "a list's order": lambda h: h.rows.reverse(),
    "a queue": lambda h: h.queue.append(1),
    "a set": lambda h: h.some.add("z"),
    "an empty dictionary": lambda h: h.nothing.update(a=1),
    "a slot": lambda h: setattr(h.slotted, "held", [2]),
    "what stands in a slot": lambda h: h.slotted.held.append(2),
    "a closure's variable": set_cell,
    "a tensor's hook": lambda h: h.tensor.register_hook(lambda grad: grad),
    "a class's attribute": lambda h: setattr(Holder, "shared", [1]),
    "a class's new attribute": lambda h: setattr(Holder, "added", [1]),
}


@pytest.fixture(autouse=True)
def class_as_it_was():
    yield
    Holder.shared = None
    if "added" in vars(Holder):
        del Holder.added


@pytest.mark.parametrize("change", CHANGES)
def test_another_structure_is_walked_again(change):
    holder = Holder()
    walk = noted(holder)
    assert again(walk, holder) is not None
    CHANGES[change](holder)
    assert again(walk, holder) is None


def test_another_part_is_walked_again():
    holder = Holder()
    walk = noted(holder)
    assert walk.renewed([("holder", Holder())], set()) is None
    assert walk.renewed([("other", holder)], set()) is None
    assert walk.renewed([("holder", holder)], {id(holder.tensor)}) is None


def test_values_are_noted_anew():
    """Generators, tensors and iterators are put back to where they stood when it was renewed."""
    holder = Holder()
    walk = noted(holder)
    drawn = holder.generator.random()
    next(holder.draws)
    with torch.no_grad():
        holder.tensor.add_(1)
    renewed = again(walk, holder)
    state = holder.generator.getstate()
    holder.generator.random()
    next(holder.draws)
    holder.rows.append(1)
    with torch.no_grad():
        holder.tensor.add_(1)
    assert renewed.restore() == []
    assert holder.generator.getstate() == state
    assert [*holder.draws] == [2, 3]
    assert holder.tensor.tolist() == [1, 1, 1]
    assert len(holder.rows) == 2
    assert drawn != holder.generator.random()


def test_a_pipeline_keeps_few_walks():
    """A pipeline is walked through once for each state that it is found in, and few are kept."""
    pipeline = Pipeline(torch.nn.Linear(2, 2), train_dataset=[1])
    reachable_state(pipeline)
    [walk] = pipeline.walks
    reachable_state(pipeline)
    assert pipeline.walks == [walk]
    for number in range(5):
        pipeline.train_dataset.append(number)
        reachable_state(pipeline)
    assert len(pipeline.walks) == WALKS
    assert walk not in pipeline.walks
