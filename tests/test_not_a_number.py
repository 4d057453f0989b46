"""NaN and infinity are never a pass: put in the place of every number that was measured."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import itertools
import math
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch

from fixtures.controls import all_controls
from fixtures.controls.factories import CHEAP
from trainsanity.engine import runner
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import Runner, run
from trainsanity.engine.session import Session
from trainsanity.measurements.runs.resume import Ended, Interrupted, Resumed
from trainsanity.measurements.runs.trace import Plan, trace
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Check, Cost, Status

pytestmark = pytest.mark.long

CONTROLS = {control.id: control for control in all_controls()}

GATE = registry().select(max_cost=Cost.STEP)
RUNS = ["loop.overfits_one_batch", "loop.save_load_equal", "loop.eval_leaves_training_alone"]
"""Runs that compare numbers, as far as they need no process of their own."""

TOLD = {
    # Code, and the place of a number that its check reads to tell it, or reads past it.
    ("TS304", r"economics\..*"): "told: nothing is judged by an epoch's waste",
    ("TS304", r"padding\.(waste|least_waste|table\..*)"): "told beside the stretch",
    ("TS504", r"recording\..*\.logged\.loss"): "told: loss.matches_reference judges it",
    ("TS507", r"recording\.own\.(weights\..*|condition)"): "the mean that is told; judged is the "
    "range of the own losses",
    ("TS609", r"recording\..*\.logged\.loss"): "judged by TS503",
    ("TS60[12]|TS505", r"recording\..*\.items\.losses"): "summed on the way to the items' weights",
    ("TS(502|505|60[12])", r"recording\..*\.num_items_in_batch"): "asked whether it is None",
    ("TS602", r"recording\..*\.items\.logits"): "the sigmoid of infinity is a number",
    ("TS901", r"overfit\.losses\..*"): "where the loss began is told beside the best",
    ("TS603", r"recording\..*\.(items\..*|head_gradient)"): "the slope stands beside the share",
    ("TS603", r"recording\..*\.(gradient_norm|backward_loss)"): "judged by TS602",
    ("TS603", r"recording\..*\.(logged\.loss|num_items_in_batch)"): "judged by TS502",
}
"""By code and place: numbers that a check reads and does not judge by."""


# --- how a number is put in another's place, and whether it was looked at -------------------------


class Noted:
    """Whether the number that was put in was read."""

    read = False


class Watched(torch.Tensor):
    """A tensor that notes when its values are used; its shape and kind are no secret."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in ("__get__", "size", "dim", "numel", "is_floating_point", "__len__"):
            Noted.read = True
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


@functools.cache
def watching(cls: type) -> type:
    """A subclass that notes when the attribute of the name ``_watched`` is read."""

    def read(self: Any, name: str) -> Any:
        if name == object.__getattribute__(self, "__dict__").get("_watched"):
            Noted.read = True
        return cls.__getattribute__(self, name)

    return type(cls.__name__, (cls,), {"__getattribute__": read})


class WatchedDict(dict[Any, Any]):
    """Notes when the value of one key is read."""

    watched: Any

    def __getitem__(self, key: Any) -> Any:
        Noted.read |= key == self.watched
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        Noted.read |= key == self.watched
        return super().get(key, default)

    def items(self) -> Any:
        Noted.read = True
        return super().items()

    def values(self) -> Any:
        Noted.read = True
        return super().values()


class WatchedItems:
    """Notes when one item is read, by itself or among all."""

    watched: Any

    def __getitem__(self, key: Any) -> Any:
        Noted.read |= isinstance(key, slice) or key in (self.watched, self.watched - len(self))
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        Noted.read = True
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        Noted.read = True
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        Noted.read = True
        return super().__ne__(other)

    __hash__ = None


class WatchedList(WatchedItems, list[Any]):
    pass


class WatchedTuple(WatchedItems, tuple[Any, ...]):
    pass


def numbers_in(
    value: Any,
    path: tuple[Any, ...] = (),
    above: tuple[int, ...] = (),
    kinds: tuple[type, ...] = (float,),
) -> Iterator[Any]:
    """Path and value of each number, float tensor and float array below; of many, a few."""
    if id(value) in above:
        return
    kind = getattr(value, "dtype", None)
    floats = getattr(kind, "is_floating_point", False) or getattr(kind, "kind", "") == "f"
    shape = getattr(value, "shape", ()) if floats else ()
    if type(value) in kinds or (len(shape) and 0 not in shape):
        yield path, value
        return
    children: list[Any] = []
    if isinstance(value, dict):
        children = [(("item", key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        children = [(("item", key), item) for key, item in enumerate(value)]
    elif type(value).__module__.startswith("trainsanity.") and hasattr(value, "__dict__"):
        yield from (
            found
            for name, item in vars(value).items()
            if name != "rows"  # data, which nobody measured
            for found in numbers_in(item, (*path, ("attribute", name)), (*above, id(value)), kinds)
        )
    few = {0, len(children) // 2, len(children) - 1}
    if isinstance(value, dict) and len(value) < 10:  # of different kinds, by their names
        few = set(range(len(value)))
    for step, item in (child for k, child in enumerate(children) if k in few):
        yield from numbers_in(item, (*path, step), (*above, id(value)), kinds)


def put(value: Any, path: tuple[Any, ...], number: Any) -> Any:
    """A copy of the value with another number at the end of the path, which notes its readers."""
    if not path:
        return number.as_subclass(Watched) if torch.is_tensor(number) else number
    (kind, key), *rest = path
    last = not rest and not torch.is_tensor(number)
    if kind == "attribute":
        made = copy.copy(value)
        for name in list(vars(made)):  # what was computed from the number before
            if isinstance(getattr(type(value), name, None), functools.cached_property):
                del vars(made)[name]
        vars(made)[key] = put(vars(value)[key], tuple(rest), number)
        if last:
            vars(made)["_watched"] = key
            object.__setattr__(made, "__class__", watching(type(value)))
        return made
    if isinstance(value, dict):
        made = WatchedDict(value) if last else dict(value)
        if last:
            made.watched = key
        made[key] = put(value[key], tuple(rest), number)
        return made
    items = [*value[:key], put(value[key], tuple(rest), number), *value[key + 1 :]]
    if not last:
        return items if isinstance(value, list) else tuple(items)
    made = (WatchedList if isinstance(value, list) else WatchedTuple)(items)
    made.watched = key
    return made


def spoilt(number: Any) -> Iterator[tuple[str, Any]]:
    """The number as NaN and as infinity: all of a tensor, and its first element."""
    for word in ("nan", "inf"):
        if isinstance(number, float | int):
            yield word, float(word)
            continue
        made = number.copy() if isinstance(number, numpy.ndarray) else number.detach().clone()
        made.reshape(-1)[0] = float(word)
        yield f"{word} first", made
        yield f"{word} everywhere", made * float(word) if word == "nan" else made * 0 + float(word)


def wrongly_passed(
    check: Check, pipeline: Pipeline, kinds: tuple[type, ...] = (float,)
) -> tuple[int, list[str]]:
    """How many numbers were put in and read; the places where the check passed all the same."""
    looks = {name: Session.of(pipeline).measurements.get(name) for name in check.inputs}
    tried, wrong = 0, []
    for look, value in looks.items():
        if look == "pipeline":
            continue
        for path, number in numbers_in(value, kinds=kinds):
            where = ".".join([look, *(str(key) for _, key in path)])
            for what, other in spoilt(number):
                Noted.read = False
                changed = {**looks, look: put(value, path, other)}
                status = judged(check, pipeline, changed)
                tried += Noted.read
                if status is Status.PASS and Noted.read and not told(check, where):
                    wrong.append(f"{where} = {what}")
    return tried, wrong


def judged(check: Check, pipeline: Pipeline, looks: dict[str, Any]) -> Status:
    """What the runner makes of the check with these measurements."""
    with_these = dataclasses.replace(pipeline)
    values = Session.of(with_these).measurements._values
    values.update(looks)
    values["pipeline"] = with_these
    return Runner(with_these)._call(dataclasses.replace(check, requires=())).status


def told(check: Check, where: str) -> bool:
    return any(
        re.fullmatch(code, check.code) and re.fullmatch(place, where) for code, place in TOLD
    )


# --- every check, every number --------------------------------------------------------------------


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check is watched for what it changes: that takes longer than what it says of a number."""
    monkeypatch.setattr(runner, "guarded", lambda *_: contextlib.nullcontext())


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        # Those that hold a value against a computed one; all others are asked by the matrix.
        ("plain", [check for check in GATE if check.judges is not None]),
        pytest.param("plain", GATE, marks=pytest.mark.matrix),
        pytest.param("regression", GATE, marks=pytest.mark.matrix),
        pytest.param(
            "language_model",
            registry().select(["loss", "gradient"]),
            marks=pytest.mark.matrix,
        ),
        ("gradient_checkpointing", [registry().get("TS607")]),
        ("plain", registry().select(RUNS)),
    ],
    ids=["judging", "plain", "regression", "language_model", "checkpointing", "runs"],
)
@pytest.mark.usefixtures("unguarded")
def test_a_number_that_is_none_is_never_a_pass(name: str, checks: list[Check]) -> None:
    pipeline = PipelineSpec(name, lambda: CONTROLS[name].build(**CHEAP)).make()
    asked = Runner(pipeline)
    tried, wrong = 0, []
    for check in checks:
        if asked._call(check).status is not Status.PASS:
            continue  # it has no occasion here
        read, places = wrongly_passed(check, pipeline)
        tried += read
        wrong += [f"{check.code} {place}" for place in places]
    assert not wrong, "\n".join(wrong)
    assert tried >= 4 * len(checks) / 10, "the numbers are not found any more"


def cut_and_resumed(pipeline: Pipeline) -> dict[str, Any]:
    """What processes of their own come to that lose nothing, without starting any."""
    plan = Plan(2, 4, None)
    with tempfile.TemporaryDirectory() as folder:
        straight = trace(pipeline, plan, folder, saves=(plan.cut,))
        fresh = Ended(trace(pipeline, plan, folder, resume=f"{folder}/checkpoint-{plan.cut}"))
    return {
        "resumed": Resumed(plan, straight, fresh),
        "interrupted": Interrupted(plan, Ended(killed=9), [], [], "checkpoint-3", straight, fresh),
    }


@pytest.mark.usefixtures("unguarded")
def test_a_resumed_run_with_a_number_that_is_none_is_never_a_pass() -> None:
    pipeline = PipelineSpec("plain", lambda: CONTROLS["plain"].build(**CHEAP)).make()
    Session.of(pipeline).measurements._values |= cut_and_resumed(pipeline)
    for code, least in (("TS902", 12), ("TS908", 4)):
        check = registry().get(code)
        looks = {name: Session.of(pipeline).measurements.get(name) for name in check.inputs}
        assert judged(check, pipeline, looks) is Status.PASS
        tried, wrong = wrongly_passed(check, pipeline)
        assert not wrong, "\n".join(wrong)
        assert tried >= least, "the numbers are not found any more"


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("code", ["TS905", "TS906"])
def test_a_place_or_a_count_that_is_none_is_never_a_pass(code: str) -> None:
    """What these look at is counted; what a count would be after it was divided by nothing."""
    name = "masking_workers"
    pipeline = PipelineSpec(name, lambda: CONTROLS[name].build(**CHEAP)).make()
    check = registry().get(code)
    assert Runner(pipeline)._call(check).status is Status.PASS
    tried, wrong = wrongly_passed(check, pipeline, (float, int))
    assert not wrong, "\n".join(wrong)
    assert tried >= 2, "the numbers are not found any more"


# --- the same, put where a user would have it -----------------------------------------------------


def weights(trainer: Any, number: float) -> None:
    trainer.model.classifier.weight.data[0, 0] = number


def deep_weights(trainer: Any, number: float) -> None:
    trainer.model.bert.encoder.layer[0].output.dense.weight.data[0, 0] = number


def learning_rate(trainer: Any, number: float) -> None:
    trainer.args.learning_rate = number


def max_grad_norm(trainer: Any, number: float) -> None:
    trainer.args.max_grad_norm = number


def initializer_range(trainer: Any, number: float) -> None:
    trainer.model.config.initializer_range = number


def loss(trainer: Any, number: float) -> None:
    stock = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: stock(*args, **kwargs) * number


def gradient(trainer: Any, number: float) -> None:
    trainer.model.classifier.weight.register_hook(lambda gradient: gradient * number)


def logged(trainer: Any, number: float) -> None:
    stock = trainer.log
    trainer.log = lambda logs, *args, **kwargs: stock(
        {**logs, **({"loss": number} if "loss" in logs else {})}, *args, **kwargs
    )


PLACES = [weights, deep_weights, learning_rate, initializer_range, loss, gradient, logged]


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *itertools.product(PLACES, [math.nan]),
        *(
            pytest.param(*both, marks=pytest.mark.matrix)
            for both in itertools.product(PLACES, [math.inf, -math.inf])
        ),
        (max_grad_norm, math.nan),  # infinite is what people write for "only tell me the norm"
    ],
)
def test_a_pipeline_with_a_number_that_is_none_is_not_sane(
    place: Any, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("tests/examples")
    trainer = importlib.import_module("cli_factories").healthy()
    place(trainer, number)
    report = run(Pipeline.from_trainer(trainer), registry().select(ignore=["tokenizer", "dataset"]))
    assert report.exit_code() != 0, [(r.check.name, r.message) for r in report.results]


@pytest.mark.parametrize("code", ["TS902", "TS907"])
def test_a_run_that_turns_to_nan_after_the_recorded_steps_equals_nothing(code: str) -> None:
    pipeline = PipelineSpec("plain", lambda: CONTROLS["plain"].build(**CHEAP)).make()
    trainer = pipeline.trainer
    stock = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        late = trainer.state.global_step >= 2 and trainer.model.training
        return stock(*args, **kwargs) * math.nan if late else stock(*args, **kwargs)

    trainer.compute_loss = compute_loss
    if code == "TS902":
        Session.of(pipeline).measurements._values |= cut_and_resumed(pipeline)
    result = Runner(pipeline)._call(registry().get(code))
    assert result.status is Status.FAIL
    assert [finding.headline for finding in result.findings] == [
        "the loss of step 3 is nan: that two such runs are equal says nothing"
    ]
