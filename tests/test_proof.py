"""Repairs are tried before they are told, and undone bit for bit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from tests.proofs import CLAIM, WRONG, read, share
from trainsanity.engine import proof
from trainsanity.engine.asked_again import all_that_cost_no_more, seconds_for, what_was_measured
from trainsanity.engine.proof import proved, proved_if_cheap
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.engine.trial import Trial, judged, shape
from trainsanity.isolation.fingerprint import fingerprint
from trainsanity.pipeline import Pipeline
from trainsanity.proofs import Proved, Repair
from trainsanity.repairs import (
    COUNT_IGNORED,
    KINDS,
    CannotApply,
    applied,
    loss_divided,
    repair,
    setting,
)
from trainsanity.report import sarif, screen, text
from trainsanity.report.github import summary
from trainsanity.report.json import dumps
from trainsanity.types import Check, Finding, Result, Severity, Status

sys.path.insert(0, str(Path(__file__).parent / "examples"))
import cli_factories

LOSS = ["loss.matches_reference", "loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum",
        "gradient.head_closed_form", "loss.initial_is_uninformed"]  # fmt: skip


@pytest.fixture(scope="module")
def broken() -> tuple[Pipeline, Report]:
    """The loss is three times too large: judged once, repaired as often as a test likes."""
    pipeline = Pipeline.from_trainer(cli_factories.loud())
    return pipeline, run(pipeline, registry().select(LOSS))


def with_repairs(report: Report, *repairs, **changes) -> Report:
    results = tuple(
        replace(r, findings=tuple(replace(f, repairs=repairs, **changes) for f in r.findings))
        for r in report.results
    )
    return replace(report, results=results)


def first(report: Report) -> Finding:
    return next(r.findings[0] for r in report.results if r.status is Status.FAIL)


def test_the_right_repair_is_proved_and_undone(broken) -> None:
    pipeline, report = broken
    before, session = fingerprint(pipeline), pipeline.session
    found = first(proved(pipeline, with_repairs(report, loss_divided(3))))
    assert found.proof.status is Proved.PROVED
    assert found.proof.before == pytest.approx(3 * found.proof.after, rel=1e-4)
    assert "TS502" in found.proof.green
    assert not found.proof.red
    assert found.cause == first(report).cause
    assert fingerprint(pipeline) == before
    assert pipeline.session is session


def test_a_refuted_cause_is_not_told(broken) -> None:
    pipeline, report = broken
    planted = with_repairs(report, setting("args", "weight_decay", 0.003), cause=CLAIM)
    answered = proved(pipeline, planted)
    found = first(answered)
    assert found.proof.status is Proved.REFUTED
    assert "still fails" in found.proof.sentence
    assert (found.cause, found.fix, found.candidates) == (None, None, ())
    assert answered.diagnosis.confidence.startswith("open")
    assert not any(
        f.cause == CLAIM for r in answered.results if r.status is Status.FAIL for f in r.findings
    )


@pytest.mark.parametrize("wrong", WRONG, ids=lambda one: one.words)
def test_ten_planted_causes_are_not_printed(broken, wrong) -> None:
    pipeline, report = broken
    answered = proved(pipeline, with_repairs(report, wrong, cause=CLAIM, fix=CLAIM))
    assert first(answered).proof.status is Proved.REFUTED
    pages = [screen.render(answered), text.render(answered), dumps([answered])]
    pages += [summary([answered]), sarif.dumps([answered])]
    assert all("refuted" in page for page in pages[:3])
    assert not any(CLAIM in page for page in pages)


@pytest.mark.matrix
def test_planted_in_ten_faults_none_is_told() -> None:
    ids = ["mask_all_ones", "padded_with_zero", "padding_supervised", "head_frozen", "head_nan",
           "focal_loss_not_divided", "warmup_outlasts_run", "config_pad_differs",
           "optimizer_before_the_head", "mask_from_eos"]  # fmt: skip
    command = [sys.executable, "-m", "tests.proofs", "--planted", *ids]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": refuted; ") == len(ids), done.stdout


def test_the_recorded_share_is_what_is_wanted() -> None:
    document = read()
    mended, named = share(document["faults"])
    assert named >= 50
    assert mended >= 0.8 * named
    assert not any(document["healthy"].values())


def test_of_several_the_proved_one_is_told(broken) -> None:
    pipeline, report = broken
    right = replace(loss_divided(3), cause="it is three times", fix="a third of it")
    wrong = setting("args", "weight_decay", 0.003)
    found = first(proved(pipeline, with_repairs(report, wrong, right, cause=CLAIM)))
    assert (found.cause, found.fix) == ("it is three times", "a third of it")
    assert found.proof.repair == right.words


def test_what_cannot_be_applied_refutes_nothing(broken) -> None:
    pipeline, report = broken
    found = first(proved(pipeline, with_repairs(report, repair("x", "no_such_kind"), cause=CLAIM)))
    assert found.proof.status is Proved.UNTRIED
    assert found.cause == CLAIM
    assert "no repair is called 'no_such_kind'" in found.proof.sentence


def test_what_is_so_already_is_refuted(broken) -> None:
    pipeline, report = broken
    dropout = repair("dropout off", "dropout_off")
    found = first(proved(pipeline, with_repairs(report, dropout, cause=CLAIM)))
    assert (found.proof.status, found.cause) == (Proved.REFUTED, None)
    assert "changes nothing here" in found.proof.sentence


def test_a_repair_that_stays_is_told_and_nothing_is_tried_after_it(
    broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, report = broken

    @contextlib.contextmanager
    def stays(_, pipeline):
        pipeline.args.weight_decay = 0.5
        yield

    monkeypatch.setattr(proof, "applied", stays)
    found = first(proved(pipeline, with_repairs(report, repair("x", "a"), repair("y", "b"))))
    pipeline.args.weight_decay = 0.0
    assert found.proof.status is Proved.UNTRIED
    assert "changed the pipeline's training arguments" in found.proof.sentence


def test_a_repair_that_breaks_something_else_is_none() -> None:
    one, two = (Check(f"ACME{k:03}", f"loss.check_{k}", lambda: ()) for k in (1, 2))
    change = repair("x", "attribute")
    finding = Finding("3 of 4", observed=3, repairs=(change,))
    fails = Result(one, "p", Status.FAIL, (finding,), 3, 0, "")
    passes = Result(two, "p", Status.PASS)
    report = Report("p", (fails, passes), 2, {}, {}, 0.0)
    good = {one.name: replace(fails, status=Status.PASS, findings=(), observed=0)}
    trial = Trial(change, {**good, two.name: passes})
    told = judged(finding, fails, report, trial)
    assert (told.status, told.sentence) == (
        Proved.PROVED,
        "with x 3 becomes 0; 1 check turns green, none red.",
    )
    trial = Trial(change, {**good, two.name: replace(passes, status=Status.FAIL)})
    told = judged(finding, fails, report, trial)
    assert told.status is Proved.UNPROVED
    assert told.red == (two.code,)


def test_by_default_what_was_measured_is_asked_again(broken) -> None:
    pipeline, report = broken
    planted = with_repairs(report, loss_divided(3))
    found, whole = first(proved_if_cheap(pipeline, planted)), first(proved(pipeline, planted))
    assert (found.proof.status, found.proof.green) == (Proved.PROVED, whole.proof.green)
    # What needs another measurement was not asked, and the sentence says so.
    assert whole.proof.sentence.endswith(" green, none red.")
    assert found.proof.sentence.endswith(" green, and of 2 others judged again none red.")
    hurried = first(proved_if_cheap(pipeline, replace(planted, seconds=0.0)))
    assert hurried.proof.status is Proved.UNTRIED
    assert hurried.cause == first(report).cause
    assert hurried.proof.sentence.endswith("; --prove-fix tries it")


def test_what_it_takes_is_known_of_all_that_is_asked_by_default(broken) -> None:
    _, report = broken
    change = loss_divided(3)
    planted = with_repairs(report, change)

    def asked(report: Report, *raised: str) -> set[str]:
        return {check.name for check in what_was_measured(report, change, raised)}

    same_looks = {"loss.matches_reference", "loss.logged_is_a_mean",
                  "gradient.step_is_the_weighted_sum", "gradient.head_closed_form"}  # fmt: skip
    assert {check.name for check in all_that_cost_no_more(planted, change)} == {*LOSS}
    assert asked(planted) == same_looks
    own = {r.check.name for r in planted.results if r.status is Status.FAIL}
    assert own < same_looks
    assert asked(planted, "confirmed") == own
    without = {k: s for k, s in report.measured.items() if k != "confirmed"}
    assert asked(replace(planted, measured=without)) == own
    taken = seconds_for(planted, [r.check for r in planted.results])
    assert 0 < seconds_for(planted, what_was_measured(planted, change, ())) < taken
    assert taken < report.seconds


def test_others_that_were_judged_again_are_counted() -> None:
    change = repair("x", "y")
    one, two, three = registry().all()[:3]
    finding = Finding("3 rows", observed=3, repairs=(change,))
    fails = Result(one, "p", Status.FAIL, (finding,), 3, 0, "")
    passes = [Result(check, "p", Status.PASS) for check in (two, three)]
    report = Report("p", (fails, *passes), 3, {}, {}, 0.0)
    good = replace(fails, status=Status.PASS, findings=(), observed=3)

    def said(*others: Result, becomes: Result = good, change: Repair = change) -> str:
        again = {result.check.name: result for result in (becomes, *others)}
        told = judged(finding, fails, report, Trial(change, again))
        assert told.status is Proved.PROVED
        return told.sentence

    gone = "with x it is gone; 1 check turns green, "
    assert said() == f"{gone}and no other judged again."
    assert said(passes[0]) == f"{gone}and of 1 other judged again none red."
    assert said(*passes) == f"{gone}none red."
    # One that does not apply any more is judged by another.
    instead = repair("x", "y", then=two.name)
    skipped = replace(fails, status=Status.SKIP, findings=())
    assert said(passes[0], becomes=skipped, change=instead) == (
        f"with x the check does not apply, and {two.code} passes; of 1 other judged again none red."
    )


def test_nothing_is_told_of_what_was_not_begun(broken) -> None:
    pipeline, report = broken
    planted = with_repairs(report, repair("x", "no_such_kind"))
    assert first(proved_if_cheap(pipeline, planted)).proof is None
    several = replace(
        with_repairs(report, loss_divided(3)), facts={**report.facts, "world_size": 2}
    )
    assert first(proved_if_cheap(pipeline, several)).proof is None
    assert first(proved(pipeline, several)).proof.status is Proved.UNTRIED


def test_a_healthy_report_has_no_proof(broken) -> None:
    pipeline, report = broken
    warned = Finding("w", severity=Severity.WARNING, repairs=(COUNT_IGNORED,))
    good = replace(
        report,
        results=tuple(
            replace(r, status=Status.WARNING, findings=(warned,)) for r in report.results
        ),
    )
    assert proved(pipeline, good) is good


def test_numbers_do_not_make_another_finding() -> None:
    assert shape("3 of 4 rows: 1.5e-07") == shape("12 of 96 rows: 0.25")
    assert shape("3 rows") != shape("3 columns")


ARGUMENTS = {
    "attribute": {"where": "config", "name": "pad_token_id", "value": 7},
    "label_names": {"names": ("x", "y", "z")},
    "padding_filled": {"value": 3},
    "loss_scaled": {"factor": 0.5},
    "parameters_trainable": {"names": ("classifier.weight",)},
    "callbacks_left_out": {"names": ("DefaultFlowCallback",)},
    "schedule_stretched": {"factor": 2.0},
    "drawn_anew": {"names": ("classifier.weight", "classifier.bias")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_undone(broken, kind: str) -> None:
    from trainsanity import repairs

    assert callable(getattr(import_module(f"{repairs.__name__}.{KINDS[kind]}"), kind))
    pipeline, _ = broken
    if kind == "parameters_trainable":
        pipeline.model.classifier.weight.requires_grad_(False)
    before = fingerprint(pipeline)
    change = repair(kind, kind, **ARGUMENTS.get(kind, {}))
    with contextlib.suppress(CannotApply), applied(change, pipeline):
        pass
    after = fingerprint(pipeline)
    pipeline.model.classifier.weight.requires_grad_(True)
    assert {name for name in after if after[name] != before[name]} == set()
