from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import pytest

from trainsanity.measurements.batches.observed_collator import observed


class Labelled:
    valid_label_columns = ("label", "score")

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        self.calls += 1
        return {"rows": features}


@dataclass(frozen=True)
class Frozen:
    width: int = 3

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        return {"rows": features, "width": self.width}


class Slotted:
    __slots__ = ("width",)

    def __init__(self) -> None:
        self.width = 3

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        return {"rows": features, "width": self.width}


def plain(features: list[Any], tensors: str = "pt") -> dict[str, Any]:
    return {"rows": features, "tensors": tensors}


@pytest.mark.parametrize(
    "collator",
    [Labelled(), Frozen(), Slotted(), plain, functools.partial(plain, tensors="np")],
    ids=["object", "frozen", "slots", "function", "partial"],
)
def test_what_a_trainer_reads_stays(collator: Any) -> None:
    seen = []

    def observe(call: Any, rows: Any) -> Any:
        seen.append(list(rows))
        return call(rows)

    made = observed(collator, observe)
    assert {**made([1, 2])} == {**collator([1, 2])}
    assert seen == [[1, 2]]
    assert inspect.signature(made) == inspect.signature(collator)
    for name in getattr(collator, "__dict__", {}):
        assert getattr(made, name) is getattr(collator, name)


def test_an_object_keeps_its_class_and_its_attributes() -> None:
    own = Labelled()
    made = observed(own, lambda call, rows: call(rows))
    assert isinstance(made, Labelled)
    assert type(made).__qualname__ == "Labelled"
    assert made.valid_label_columns == ("label", "score")
    made([])
    assert own.calls == 1
    made.valid_label_columns = ("label",)
    assert own.valid_label_columns == ("label",)
    assert type(own) is Labelled
