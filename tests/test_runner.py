"""How a check can end, what it blocks, and what the exit code makes of it."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from trainsanity.engine import runner as runner_module
from trainsanity.engine.registry import Registry
from trainsanity.engine.report import Policy, Report
from trainsanity.engine.runner import Runner, run
from trainsanity.engine.store import Measurement, catalogue
from trainsanity.errors import UsageError
from trainsanity.pipeline import Pipeline
from trainsanity.proofs import Repair
from trainsanity.report.screen import render
from trainsanity.types import (
    Abstain,
    Check,
    Cost,
    Finding,
    Judges,
    Measured,
    Severity,
    Skip,
    Status,
)


class Catalogue(Registry):
    """A registry that is filled by keyword: name=(function, options)."""

    def __init__(self, **checks):
        super().__init__()
        for k, (name, (fn, options)) in enumerate(checks.items()):
            self.add(Check(f"ACME{k:03}", f"loss.{name}", fn, **options))


def passes(pipeline):
    yield Measured("all is well", 1, 1)


def fails(factor=None):
    def fn(pipeline):
        yield Measured("2 of 3 are well", 2, 3)
        yield Finding("not well", observed=2, expected=1, factor=factor)

    return fn


def warns(pipeline):
    yield Measured("2 of 3 are well", 2, 3)
    yield Finding("odd", factor=12.0, severity=Severity.WARNING)


def under(report, **policy):
    return replace(report, policy=Policy(**policy)).exit_code()


def raises(error):
    def fn(pipeline):
        raise error

    return fn


def judge(expected=None, **checks):
    catalogue = Catalogue(**checks)
    runner = Runner(Pipeline(torch.nn.Linear(2, 2)), expected, catalogue)
    results = {c.name.partition(".")[2]: runner.result(c) for c in catalogue.all()}
    report = Report("here", tuple(results.values()), len(results), {}, {}, 0.0)
    return {name: str(r.status) for name, r in results.items()}, report, results


@pytest.mark.parametrize(
    ("fn", "status", "code"),
    [
        (passes, Status.PASS, 0),
        (fails(), Status.FAIL, 1),
        (raises(Skip("not here")), Status.SKIP, 3),
        (raises(Abstain("too noisy")), Status.ABSTAIN, 3),
        (raises(ZeroDivisionError("oh")), Status.ERROR, 3),
        (lambda pipeline: iter(()), Status.ERROR, 3),
        (lambda pipeline: None, Status.ERROR, 3),
        (lambda pipeline: ["fine"], Status.ERROR, 3),
        (warns, Status.WARNING, 0),
        (lambda pipeline: [Finding("not well")], Status.ERROR, 3),
        (lambda pipeline: [*passes(pipeline), *passes(pipeline)], Status.ERROR, 3),
        (lambda pipeline: [*warns(pipeline), *fails()(pipeline)], Status.ERROR, 3),
        (lambda pipeline: [*passes(pipeline), Finding("odd", severity="grave")], Status.ERROR, 3),
        (lambda pipeline: [*passes(pipeline), Finding("bad", severity="failure")], Status.FAIL, 1),
        (
            lambda pipeline: [*passes(pipeline), Finding("odd", severity="warning")],
            Status.WARNING,
            0,
        ),
    ],
)
def test_endings_and_exit_codes(fn, status, code):
    statuses, report, _ = judge(it=(fn, {}))
    assert statuses == {"it": str(status)}
    assert report.exit_code() == code
    assert report.ran == (status in (Status.PASS, Status.WARNING, Status.FAIL))


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda pipeline: [Finding("x")], "the check yielded no Measured; it has to yield one"),
        (
            lambda pipeline: [*passes(pipeline), *passes(pipeline)],
            "the check yielded 2 Measured; it has to yield one",
        ),
        (
            lambda pipeline: [Finding("x", severity="grave")],
            "the check raised ValueError: severity 'grave': give failure or warning",
        ),
    ],
)
def test_a_check_that_breaks_the_contract_says_how(fn, reason):
    _, _, results = judge(it=(fn, {}))
    assert results["it"].reason == reason


def test_a_failure_outranks_a_warning_and_stands_for_the_result():
    def both(pipeline):
        yield Finding("odd", cause="luck", severity=Severity.WARNING)
        yield Measured("2 of 3 are well", 2, 3)
        yield Finding("wrong", observed=2, cause="a mistake")

    _, _, results = judge(it=(both, {}))
    assert results["it"].status is Status.FAIL
    assert results["it"].message == "2 of 3 are well"
    row = results["it"].as_dict()
    assert (row["message"], row["cause"]) == ("wrong odd", "a mistake")
    assert [finding["severity"] for finding in row["findings"]] == ["failure", "warning"]


def test_warnings_count_as_failures_where_the_user_says_so():
    _, report, _ = judge(it=(warns, {}), other=(passes, {}))
    assert report.exit_code() == 0
    assert under(report, strict=True) == under(report, warnings_as_errors=True) == 1


def test_a_warning_blocks_nothing_and_explains_nothing():
    statuses, _, _ = judge(
        first=(warns, {}),
        second=(passes, {"requires": ("loss.first",)}),
        third=(fails(12.0), {"explained_by": ("loss.first",)}),
    )
    assert statuses == {"first": "warning", "second": "pass", "third": "fail"}


def test_an_accepted_warning_explains_nothing_either_and_is_red_when_it_is_gone():
    accepted = {"loss.first": "known since May"}
    statuses, report, _ = judge(
        accepted, first=(warns, {}), third=(fails(12.0), {"explained_by": ("loss.first",)})
    )
    assert statuses == {"first": "xfail", "third": "fail"}
    statuses, report, _ = judge(accepted, first=(passes, {}))
    assert statuses == {"first": "xpass"}
    assert report.exit_code() == 1


JUDGES_LOSS = {"judges": Judges.LOSS, "cost": Cost.STEP}
NO_REFERENCE = raises(Skip("there is no reference"))


@pytest.mark.parametrize(
    ("checks", "not_judged", "code"),
    [
        ({"step": (NO_REFERENCE, JUDGES_LOSS)}, (Judges.LOSS,), 3),
        (
            {"step": (NO_REFERENCE, JUDGES_LOSS),
             "slope": (raises(Abstain("noise")), {"judges": Judges.GRADIENT, "cost": Cost.STEP})},
            (Judges.LOSS, Judges.GRADIENT),
            3,
        ),
        ({"step": (raises(ValueError()), JUDGES_LOSS)}, (Judges.LOSS,), 3),
        (
            {"step": (NO_REFERENCE, JUDGES_LOSS), "slope": (passes, {"judges": Judges.GRADIENT})},
            (),
            0,
        ),
        ({"step": (warns, JUDGES_LOSS)}, (), 0),
        # Nothing that costs a step was selected.
        ({"step": (NO_REFERENCE, {"judges": Judges.LOSS, "cost": Cost.FORWARD})}, (), 0),
        ({}, (), 0),
    ],
)  # fmt: skip
def test_what_was_not_judged_is_not_sane(checks, not_judged, code):
    _, report, _ = judge(other=(passes, {}), **checks)
    assert report.not_judged == not_judged
    assert report.exit_code() == code


def test_a_passing_result_carries_what_was_seen():
    _, _, results = judge(it=(passes, {}))
    assert (results["it"].message, results["it"].observed, results["it"].expected) == (
        "all is well",
        1,
        1,
    )


def test_strict_wants_everything_to_have_run():
    skipped = {"well": (passes, {}), "not_here": (raises(Skip("no")), {})}
    _, report, _ = judge(**skipped)
    assert report.exit_code() == 0
    assert under(report, strict=True) == 3


@pytest.mark.parametrize(("first", "blocks"), [
    (fails(), True), (raises(ZeroDivisionError()), True),
    (passes, False), (raises(Skip("")), False), (raises(Abstain("")), False),
])  # fmt: skip
def test_what_a_requirement_blocks(first, blocks):
    statuses, _, results = judge(first=(first, {}), second=(passes, {"requires": ("loss.first",)}))
    assert statuses["second"] == ("blocked" if blocks else "pass")
    if blocks:
        assert "ACME000 loss.first" in results["second"].reason


def test_an_accepted_failure_does_not_block():
    statuses, report, results = judge(
        {"loss.first": "known since May"},
        first=(fails(), {}),
        second=(passes, {"requires": ("loss.first",)}),
    )
    assert statuses == {"first": "xfail", "second": "pass"}
    assert results["first"].reason == "known since May"
    assert report.exit_code() == 0


def test_an_accepted_failure_that_is_gone_is_red():
    statuses, report, _ = judge({"loss.it": "known since May"}, it=(passes, {}))
    assert statuses == {"it": "xpass"}
    assert report.exit_code() == 1


def test_a_crash_is_never_an_accepted_failure():
    statuses, report, _ = judge({"loss.it": "known"}, it=(raises(ValueError()), {}))
    assert statuses == {"it": "error"}
    assert report.exit_code() == 3


def test_an_unknown_accepted_failure_is_a_usage_error():
    with pytest.raises(UsageError, match=r"no check is called 'loss\.renamed'"):
        judge({"loss.renamed": "reason"}, it=(passes, {}))


@pytest.mark.parametrize(
    ("factor", "status"), [(12.0001, "blocked"), (11.0, "fail"), (None, "fail")]
)
def test_the_same_factor_is_explained(factor, status):
    statuses, report, results = judge(
        loss=(fails(12.0), {}),
        slope=(fails(factor), {"explained_by": ("loss.loss",)}),
    )
    assert statuses == {"loss": "fail", "slope": status}
    # An explained failure keeps its numbers.
    assert results["slope"].findings[0].observed == 2
    assert report.exit_code() == 1


@pytest.mark.parametrize(
    ("first", "second", "expected", "status"),
    [
        (fails(), fails(3.0), None, "blocked"),
        (fails(), fails(), {"loss.first": "known since May"}, "blocked"),
        (fails(), passes, None, "pass"),
        (fails(), warns, None, "warning"),
        (passes, fails(), None, "fail"),
        (warns, fails(), None, "fail"),
        (raises(Skip("no")), fails(), None, "fail"),
    ],
    ids=["follows", "accepted", "passes", "warns", "alone", "warning before", "skip before"],
)
def test_a_failure_that_follows_from_another_is_told_under_it(first, second, expected, status):
    statuses, report, results = judge(
        expected,
        first=(first, {}),
        second=(second, {"follows": ("loss.first",)}),
    )
    assert statuses["second"] == status
    if status == "blocked":
        assert results["second"].blocked_by == "loss.first"
        assert results["second"].reason == "follows from ACME000 loss.first"
        assert results["second"].findings
        assert "\nACME001 follows from ACME000\n" in render(report)


def test_a_check_that_costs_more_is_not_run_to_explain_one_that_costs_less():
    statuses, _, _ = judge(
        dear=(fails(), {"cost": Cost.STEP}),
        cheap=(fails(), {"follows": ("loss.dear",)}),
    )
    assert statuses == {"dear": "fail", "cheap": "fail"}


@pytest.mark.parametrize("processes", [1, 2])
def test_of_several_processes_one_alone_asks_nothing_of_all(processes, monkeypatch):
    """A failure of one process may not have it judge what the others judge later, or wait for."""
    monkeypatch.setattr(runner_module, "agreed", lambda result, world_size: result)
    catalogue = Catalogue(
        second=(fails(), {"follows": ("loss.third",)}),
        third=(fails(), {}),
    )
    runner = Runner(Pipeline(torch.nn.Linear(2, 2)), None, catalogue)
    runner.session.facts["world_size"] = processes
    second, _ = (runner.result(check) for check in catalogue.all())
    assert second.status is (Status.BLOCKED if processes == 1 else Status.FAIL)


def test_two_that_follow_from_each_other_are_told_once():
    statuses, _, _ = judge(
        first=(fails(), {"follows": ("loss.second",)}),
        second=(fails(), {"follows": ("loss.first",)}),
    )
    assert sorted(statuses.values()) == ["blocked", "fail"]


@pytest.mark.parametrize(
    ("cause", "status"), [("it is cut: there", "blocked"), ("it is bent: there", "fail")]
)
def test_the_same_cause_in_the_same_words_is_explained(cause, status):
    def because(cause):
        def fn(pipeline):
            yield Finding("bad", cause=cause)
            yield Measured("measured")

        return fn

    statuses, report, results = judge(
        first=(because("it is cut: here"), {}),
        second=(because(cause), {"explained_by": ("loss.first",)}),
    )
    assert statuses == {"first": "fail", "second": status}
    if status == "blocked":
        assert results["second"].reason == "explained by ACME000 loss.first: the same cause"
        assert "\nACME001 has the same cause as ACME000\n" in render(report)


@pytest.mark.parametrize(
    ("own", "status"),
    [
        (("settings",), "blocked"),  # by another factor: what is counted differs
        (("settings", "loss"), "fail"),  # either may be it
        (("other",), "fail"),
        ((), "fail"),
    ],
)
def test_the_same_repair_is_explained(own, status):
    def mended(factor, cause, *kinds):
        def fn(pipeline):
            repairs = tuple(Repair(f"{kind} = False", kind) for kind in kinds)
            yield Finding("bad", factor=factor, cause=cause, repairs=repairs)
            yield Measured("measured")

        return fn

    statuses, report, results = judge(
        first=(mended(12.0, "12 is 6 x 2", "settings", "loss"), {}),
        second=(mended(2.0, "2 is 2", *own), {"explained_by": ("loss.first",)}),
    )
    assert statuses == {"first": "fail", "second": status}
    if status == "blocked":
        reason = "explained by ACME000 loss.first: the same repair, settings = False"
        assert results["second"].reason == reason
        assert "\nACME001 needs the same repair as ACME000\n" in render(report)


def test_what_is_blocked_by_a_check_that_was_not_asked_for_is_not_green():
    _, _, results = judge(
        first=(fails(), {}),
        second=(passes, {"requires": ("loss.first",)}),
        third=(passes, {}),
    )
    report = Report("here", (results["second"], results["third"]), 3, {}, {}, 0.0)
    assert report.exit_code() == 3


def stumbles(broken):
    yield Measured("all is well")


@pytest.mark.parametrize(
    ("stops", "expected", "status", "code"),
    [
        (True, None, "blocked", 1),
        (False, None, "error", 1),
        # Accepted, it stands in nobody's way, and so explains nothing.
        (True, {"loss.rows": "known since May"}, "error", 3),
    ],
)
def test_what_raises_after_bad_rows_is_theirs(monkeypatch, stops, expected, status, code):
    def broken(pipeline):
        raise IndexError("index out of range in self")

    monkeypatch.setitem(catalogue(), "broken", Measurement("broken", broken, Cost.STATIC))
    statuses, report, results = judge(
        expected, rows=(fails(), {"stops": stops}), step=(stumbles, {}), later=(stumbles, {})
    )
    assert statuses["step"] == status
    assert statuses["later"] == "blocked"
    assert report.exit_code() == code
    # Its words are kept, whatever they are worth.
    assert "index out of range in self" in results["step"].reason
    assert results["later"].blocked_by == ("loss.rows" if status == "blocked" else "loss.step")


def test_what_raises_before_the_bad_rows_are_looked_at_is_theirs_too(monkeypatch):
    def broken(pipeline):
        raise ValueError("no tensor of a string")

    monkeypatch.setitem(catalogue(), "broken", Measurement("broken", broken, Cost.STATIC))
    statuses, report, results = judge(
        step=(stumbles, {}),
        rows=(fails(), {"stops": True}),
        # Looked at in the meantime, it meets the same error.
        more=(stumbles, {"stops": True}),
        later=(stumbles, {}),
    )
    assert statuses == {"step": "blocked", "rows": "fail", "more": "blocked", "later": "blocked"}
    assert results["step"].blocked_by == results["later"].blocked_by == "loss.rows"
    assert results["more"].blocked_by == "loss.step"
    assert report.exit_code() == 1


def test_nothing_at_all_is_not_green():
    assert Report("here", (), 20, {}, {}, 0.0).exit_code() == 3


def test_a_check_that_needs_what_is_not_there_is_skipped():
    statuses, _, results = judge(it=(passes, {"needs": ("trainer", "tokenizer")}))
    assert statuses == {"it": "skip"}
    assert results["it"].reason == "this pipeline has no trainer and no tokenizer"


def heavier(pipeline):
    with torch.no_grad():
        pipeline.model.weight += 1
    yield Measured("all is well")


def in_eval(pipeline):
    pipeline.model.eval()
    yield Measured("all is well")


def dicing(pipeline):
    torch.rand(1)
    yield Measured("all is well")


@pytest.mark.parametrize(
    ("meddler", "what"),
    [(heavier, "weights"), (in_eval, "train/eval flags"), (dicing, "torch random state")],
)
def test_a_check_that_changes_the_pipeline_is_caught(meddler, what):
    statuses, _, results = judge(it=(meddler, {}))
    assert statuses == {"it": "error"}
    assert f"changed the pipeline's {what}" in results["it"].reason


def test_the_garbage_collector_is_as_it_was():
    seen = []

    def looks(pipeline):
        seen.append(gc.get_freeze_count())
        yield Measured("all is well")

    gc.unfreeze()  # what conftest.py has frozen
    try:
        before, frozen = (gc.get_threshold(), gc.isenabled()), gc.get_freeze_count()
        pipeline = Pipeline(torch.nn.Linear(2, 2))
        run(pipeline, [Check("ACME001", "loss.inputs", looks)])
        assert seen[0] > 10_000  # torch alone has more objects
        assert (gc.get_threshold(), gc.isenabled()) == before
        assert gc.get_freeze_count() <= frozen  # Python 3.12 begins with some
    finally:
        gc.freeze()


def test_what_somebody_else_has_spared_the_garbage_collector_stays_so():
    gc.freeze()  # again, whatever a test before has done
    run(Pipeline(torch.nn.Linear(2, 2)), [Check("ACME001", "loss.passes", passes)])
    assert gc.get_freeze_count() > 10_000  # the few that died meanwhile do not count
