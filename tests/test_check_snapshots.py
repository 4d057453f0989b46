"""How what is said and measured is compared with what it was."""

from __future__ import annotations

import re

import pytest

from fixtures.controls import all_controls
from fixtures.faults import all_faults
from tests import check_snapshots
from tests.check_snapshots import FOLDER, STATUSES, WRITTEN_WITH, differences, entries, versions
from trainsanity.engine.registry import registry
from trainsanity.types import Cost


def test_the_versions_are_public_ones(monkeypatch):
    monkeypatch.setattr(check_snapshots, "version", lambda name: "2.13.0+cpu")
    assert versions() == "torch 2.13.0, transformers 2.13.0"


def test_every_check_is_compared_on_every_fault_that_it_catches():
    missing = [
        (name, fault.id)
        for fault in all_faults()
        for name in fault.caught_by or fault.warned_by
        # Times are the machine's, and are asked in tests of their own.
        if fault.id not in entries(name)
        and not (name.startswith("speed.") and registry().get(name).cost is Cost.RUN)
    ]
    assert not missing


def test_nothing_is_kept_of_what_is_gone():
    assert {path.stem for path in FOLDER.glob("*.json")} <= {c.name for c in registry().all()}
    faults = {fault.id for fault in all_faults()}
    controls = {control.id for control in all_controls()}
    for check in registry().all():
        document = entries(check.name)
        kept = {of for of in document if not re.match(r"bound-|step-|\S+ ", of)} - {
            STATUSES,
            WRITTEN_WITH,
        }
        assert kept <= faults, check.name
        named = {of for of in document.get(STATUSES, ()) if "," not in of}  # not of processes
        assert named <= controls | faults, check.name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": [1.0, "3.14 x"]}, {"a": [1.004, "3.15 x"]}),  # half a percent
        ({"a": 1e-7}, {"a": 9e-5}),  # noise
        ({"a": float("nan")}, {"a": float("nan")}),
    ],
)
def test_arithmetic_is_no_difference(old, new):
    assert list(differences(old, new, "here")) == []


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.02]}, "here, a, 1: it was 2.0 and is 2.02"),
        ({"a": "3 of 4"}, {"a": "3 of 5"}, "here, a: it was '3 of 4' and is '3 of 5'"),
        ({"a": "3 of 4"}, {"a": "3 out of 4"}, "here, a: it was '3 of 4' and is '3 out of 4'"),
        ({"a": [1]}, {"a": [1, 2]}, "here, a: it was [1] and is [1, 2]"),
        ({"a": 1}, {}, "here, a: it was 1 and is None"),
        ({}, {"a": 0}, "here, a: it was None and is 0"),
        ({"a": 1}, {"a": True}, "here, a: it was 1 and is True"),
        ({"a": float("nan")}, {"a": 1.0}, "here, a: it was nan and is 1.0"),
    ],
)
def test_everything_else_is_one(old, new, place):
    assert list(differences(old, new, "here")) == [place]
