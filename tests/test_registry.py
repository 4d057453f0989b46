"""Codes, names, selection: what a mistake in registering or choosing a check says."""

from __future__ import annotations

import re

import pytest

from trainsanity.engine.registry import Registry, registry
from trainsanity.errors import UsageError
from trainsanity.types import STAGES, Check, Cost, Measured

PAGE = (
    "What it checks:",
    "Why it matters:",
    "How it is measured:",
    "How to fix:",
    "Known false alarms:",
    "References:",
)


def static(pipeline):
    yield Measured("measured")


def slow(recording):
    yield Measured("measured")


def lost(crystal_ball):
    yield Measured("measured")


def add(code="ACME001", name="loss.mine", fn=static, into=None, **more):
    into = into or Registry()
    into.add(Check(code, name, fn, **more))
    return into


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"code": "acme"}, "give letters and digits, like ACME001"),
        ({"name": "mine"}, "give 'stage.invariant'"),
        ({"name": "weather.mine"}, "one of tokenizer, dataset"),
        ({"code": "TS999"}, "TS is reserved"),
        ({"fn": lost}, "asks for 'crystal_ball'; there is no such measurement"),
        ({"fn": slow, "cost": Cost.FORWARD}, "its measurement 'recording' costs STEP"),
        ({"judges": "los"}, "check ACME001 judges 'los': give loss or gradient, or leave it out"),
    ],
)
def test_a_check_that_cannot_be_registered(wrong, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        add(**wrong)


@pytest.mark.parametrize("twice", [{"name": "loss.other"}, {"code": "ACME002"}])
def test_a_code_or_name_taken(twice):
    with pytest.raises(UsageError, match="registered twice"):
        add(**twice, into=add())


def test_a_requirement_that_does_not_exist():
    with pytest.raises(UsageError, match=r"requires 'loss\.gone', which does not exist"):
        add(requires=("loss.gone",)).all()


def codes(*select, **more):
    return [check.code for check in registry().select(select, **more)]


def test_selection_by_stage_code_name_and_glob():
    assert codes("TS5") == codes("loss") == sorted(codes("loss"))
    assert {code[:3] for code in codes("loss")} == {"TS5"}
    assert codes("loss.matches_reference") == codes("TS502") == codes("*.matches_ref*") == ["TS502"]
    assert codes("TS1", ignore=["TS102"]) == [code for code in codes("TS1") if code != "TS102"]
    assert set(codes()) - set(codes(max_cost=Cost.FORWARD)) == {
        c.code for c in registry().all() if Cost.FORWARD < c.cost < Cost.RUN
    }


def test_runs_are_left_out_unless_they_are_asked_for():
    runs = [c.code for c in registry().all() if c.cost is Cost.RUN]
    assert runs
    assert not {*runs} & {*codes(), *codes(ignore=["tokenizer"]), *codes("tokenizer")}
    assert codes(max_cost=Cost.RUN) == [c.code for c in registry().all()]
    assert set(runs) <= {*codes("loop"), *codes("speed")}
    assert set(codes("loop")) == set(codes("TS9")) == set(codes("loop.*"))
    assert set(codes("speed")) == set(codes("TS0"))
    assert codes("TS901") == codes("loop.overfits_one_batch") == ["TS901"]
    assert codes("TS901", max_cost=Cost.STEP) == []


def test_an_unknown_word_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"'loss\.match_reference'; did you mean 'loss\.matches_r"):
        codes("loss.match_reference")
    with pytest.raises(UsageError, match="no check is called 'TS999'"):
        codes(ignore=["TS999"])


def test_checks_come_in_the_order_in_which_data_flows():
    stages = [STAGES.index(check.stage) for check in registry().all()]
    assert stages == sorted(stages)


@pytest.mark.parametrize("check", registry().all(), ids=lambda c: c.code)
def test_every_page_is_complete(check):
    assert check.title.endswith(".")
    places = [check.page.find(section) for section in PAGE]
    assert -1 not in places, f"{check.code}: {dict(zip(PAGE, places, strict=True))}"
    assert places == sorted(places)
    assert check.rules_out, "a pass rules a suspect out"
