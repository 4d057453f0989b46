"""Which checks reach a verdict on a healthy pipeline of each kind, and that none is red."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from tests.coverage import table

KINDS = tuple(table.read()["kinds"])

CHEAP = ("dpo", "image_classification", "tabular_module")
"""Kinds that are judged in the gate: pairs of token ids, pixels, numbers."""


@pytest.fixture(autouse=True)
def _upstream_packages() -> None:
    """The pipelines are written for transformers 5, and some import trl."""
    pytest.importorskip("transformers", minversion="5")
    if find_spec("trl") is None:
        pytest.skip("trl is not installed")


def _kind(name: str) -> Any:
    from tests.coverage.kinds import KINDS as BUILT

    one = BUILT[name]
    if not table.possible(one):
        pytest.skip(f"{one.needs} is not installed")
    return one


def test_the_table_has_every_kind_and_the_catalogue_exists() -> None:
    from tests.coverage.kinds import KINDS as BUILT
    from trainsanity.engine.registry import registry

    assert {*KINDS} == {*BUILT}
    names = {check.name for check in registry().all()}
    assert {*table.first_catalogue()} <= names
    for row in table.read()["kinds"].values():
        found = [name for some in row["verdicts"].values() for name in some]
        assert (row["all"], len(found)) == (len({*found}), len({*found}))
        assert row["first_catalogue"] == len({*found} & {*table.first_catalogue()})


@pytest.mark.parametrize("name", KINDS)
def test_what_is_on_file_is_healthy_and_no_lower_than_its_floor(name: str) -> None:
    from tests.coverage.kinds import KINDS as BUILT

    row = table.read()["kinds"][name]
    assert {*row["verdicts"]} <= {"pass", "warning"}
    assert {why.partition(":")[0] for why in row["without"]} <= {"skip", "abstain"}
    below = table.read().get("below", {}).get(name)
    floor = BUILT[name].floor
    # What is known to lie below its floor is on file with its number, and may not fall further.
    assert row["first_catalogue"] >= (floor if below is None else below)
    assert below is None or below < floor


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in CHEAP else [pytest.mark.matrix]) for name in KINDS],
)
def test_no_verdict_is_lost(name: str) -> None:
    import torch

    one = _kind(name)
    if not table.same_versions():
        pytest.skip(f"the table holds for {table.read()['versions']}")
    assert torch.__version__
    found = table.judged(one)
    assert "verdicts" in found, found
    assert table.unhealthy(found) == []
    row = table.read()["kinds"][name]
    had = {check for some in row["verdicts"].values() for check in some}
    lost = {why: names for why, names in found["why"].items() if had & {*names}}
    assert lost == {}
