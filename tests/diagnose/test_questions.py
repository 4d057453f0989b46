"""The questions that a log answers, and those that it leaves open."""

from __future__ import annotations

import math
import random
import re

import pytest

from fixtures.incident import TABLE, TRAIN_LOG
from trainsanity.diagnose.case import Case, Known
from trainsanity.diagnose.entries import Entry, Log
from trainsanity.diagnose.expected import fresh_loss, healthy_range, share_of_peak
from trainsanity.diagnose.questions import ask
from trainsanity.diagnose.reading import read
from trainsanity.diagnose.reporter import render
from trainsanity.types import Status

INCIDENT = {"num_labels": 280, "learning_rate": 1e-5, "warmup_steps": 700}


def answers(log, **known):
    report = ask(Case(log if isinstance(log, Log) else read(str(log)), Known(**known)))
    return {result.check.name: result for result in report.results}


def text_of(result):
    return " ".join([result.message, result.reason, *(f.headline for f in result.findings)])


def log_of(*rows):
    log = Log("made")
    for row in rows:
        log.add(Entry("line 1", **row))
    return log.closed()


# --- the incident --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [TRAIN_LOG, TABLE], ids=["lines", "table"])
def test_the_incident(path):
    found = answers(path, **INCIDENT)
    assert [name for name, r in found.items() if r.status is Status.FAIL] == [
        "loss.initial_is_uninformed"
    ]
    (finding,) = found["loss.initial_is_uninformed"].findings
    assert "12.3 x log 280 (5.635)" in finding.headline
    assert "starts at 5.7 to 6.3" in finding.headline
    assert "consistent with a factor of 11 or 12 over a healthy 5.7 to 6.3" in finding.cause
    assert "that they make 11 or 12 is an inference" in finding.cause
    assert "a head far too large" in finding.cause
    assert "trainsanity run" in finding.fix
    assert "max_grad_norm 1, the default, keeps 0.5%" in text_of(found["gradient.clipping"])
    assert "is at 2.84% of the peak 1e-05" in text_of(found["schedule.peak_is_reached"])
    assert text_of(found["schedule.peak_is_reached"]).startswith("step 20")
    assert "little movement is expected yet" in text_of(found["update.moves_the_right_ones"])


def test_twelve_is_named_only_if_it_is_given():
    cause = answers(TABLE, **INCIDENT)["loss.initial_is_uninformed"].findings[0].cause
    assert "gradient_accumulation_steps x" not in cause
    given = {"gradient_accumulation_steps": 6, "world_size": 2}
    cause = answers(TABLE, **INCIDENT, **given)["loss.initial_is_uninformed"].findings[0].cause
    assert cause.startswith("likely gradient_accumulation_steps x world_size = 6 x 2")
    given = {"gradient_accumulation_steps": 4, "world_size": 1}
    cause = answers(TABLE, **INCIDENT, **given)["loss.initial_is_uninformed"].findings[0].cause
    assert cause.startswith("accumulation x processes = 4 does not explain")


def test_two_that_fit_equally_are_both_told():
    given = {"gradient_accumulation_steps": 12, "per_device_train_batch_size": 12}
    cause = answers(TABLE, **INCIDENT, **given)["loss.initial_is_uninformed"].findings[0].cause
    assert "gradient_accumulation_steps = 12 or per_device_train_batch_size = 12 (a step" in cause


def test_what_the_log_leaves_open_is_said_so():
    report = ask(Case(read(str(TABLE)), Known(**INCIDENT)))
    assert report.diagnosis.confidence == "open: a log shows that something is wrong, not why"
    given = {**INCIDENT, "gradient_accumulation_steps": 12}
    report = ask(Case(read(str(TABLE)), Known(**given)))
    assert report.diagnosis.confidence.startswith("likely: only gradient_accumulation_steps = 12")
    assert "how sure  likely: only" in render(report)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, r"consistent with a factor of \d\.\d to \d\d\.\d over"),
        # Where many factors fit, it is no news that a number of the run is one of them.
        (
            {"gradient_accumulation_steps": 12},
            "consistent with gradient_accumulation_steps = 12, which is not "
            r"divided out, as with any factor of \d\.\d to \d\d\.\d, and with a head",
        ),
        # The mean of one row may be next to nothing, so that there is no greatest factor.
        (
            {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 1},
            "consistent with num_labels = 2, which is not divided out, as with any factor of "
            r"\d\.\d or more",
        ),
        ({"world_size": 20}, r"= 20 does not explain a factor of \d\.\d to \d\d\.\d; possibly"),
    ],
)
def test_two_labels_tell_little(known, words):
    log = log_of({"step": 1, "loss": 8.3})
    finding = answers(log, num_labels=2, **known)["loss.initial_is_uninformed"].findings[0]
    assert re.search(words, finding.cause)
    assert finding.candidates == ()


def test_a_loss_that_only_few_rows_excuse_says_how_few():
    log = log_of({"step": 1, "loss": 2.5})
    result = answers(log, num_labels=2)["loss.initial_is_uninformed"]
    assert result.status is Status.PASS
    assert (
        "a mean over 8 rows (--per-device-train-batch-size) between 0.18 and 2.67" in result.message
    )
    known = {"per_device_train_batch_size": 32}
    result = answers(log, num_labels=2, **known)["loss.initial_is_uninformed"]
    assert result.status is Status.FAIL


def test_a_single_row_of_the_incident_is_enough(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("{'loss': '69.53', 'grad_norm': '196.4', 'learning_rate': '0'}\n")
    assert (
        "11 or 12" in answers(path, num_labels=280)["loss.initial_is_uninformed"].findings[0].cause
    )


# --- questions -----------------------------------------------------------------------------------


def healthy(steps=300, classes=280, seed=0):
    rng = random.Random(seed)
    share = share_of_peak("linear", 30, steps)
    assert share is not None
    return log_of(
        *(
            {
                "step": k,
                "loss": 1 + 4.9 * math.exp(-k / 90) + rng.gauss(0, 0.1),
                "grad_norm": 3 + rng.random(),
                "learning_rate": 1e-5 * share(k),
            }
            for k in range(1, steps + 1)
        )
    )


RUN = {"num_labels": 280, "learning_rate": 1e-5, "warmup_steps": 30, "max_steps": 300}


def broken(change, **kwargs):
    log = Log("broken")
    for number, entry in enumerate(healthy(**kwargs).kept, 1):
        row = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
        log.add(Entry(**{**row, **change(number, entry)}))
    return log.closed()


ILL = {
    "nan loss": (
        lambda k, e: {"loss": math.nan} if k >= 200 else {},
        {"loss.finite"},
        "101 of 300 logged losses are not numbers, the first (nan) at step 200",
    ),
    "nan norm": (
        lambda k, e: {"grad_norm": math.nan} if k >= 200 else {},
        {"gradient.finite"},
        "101 of 300 gradient norms are not numbers, the first (nan) at step 200, where the logged",
    ),
    "inf norm": (
        lambda k, e: {"grad_norm": math.inf} if k == 9 else {},
        {"gradient.finite"},
        "1 of 300 gradient norms are not numbers, the first (inf) at step 9",
    ),
    "no gradient": (
        lambda k, e: {"grad_norm": 0.0},
        {"gradient.reaches_every_parameter"},
        "grad_norm is 0 in 300 of 300 entries",
    ),
    "constant": (
        lambda k, e: {"loss": 5.635},
        {"update.moves_the_right_ones"},
        "the loss is 5.635 in all 300 entries",
    ),
    "learns nothing": (
        lambda k, e: {"loss": 5.75 + 0.05 * math.sin(k)},
        {"update.moves_the_right_ones"},
        "still that of a head that knows nothing",
    ),
    "twelve times": (
        lambda k, e: {"loss": 12 * e.loss},
        {"loss.initial_is_uninformed"},
        "x log 280",
    ),
    "rate zero": (
        lambda k, e: {"learning_rate": 0.0},
        {"schedule.peak_is_reached", "schedule.learning_rate_follows"},
        "the learning rate is 0 in all 300 entries",
    ),
    "rate above": (
        lambda k, e: {"learning_rate": 3 * e.learning_rate},
        {"schedule.peak_is_reached", "schedule.learning_rate_follows"},
        "above the peak 1e-05",
    ),
    "stepped four times": (
        lambda k, e: {"learning_rate": 1e-5 * share_of_peak("linear", 30, 300)(4 * k)},
        {"schedule.learning_rate_follows"},
        "learning rates are not those of the schedule",
    ),
}


@pytest.mark.parametrize("name", ILL)
def test_ill_logs_are_found_and_only_for_their_own_reason(name):
    change, expected, words = ILL[name]
    found = answers(broken(change), **RUN)
    red = {name for name, result in found.items() if result.status is Status.FAIL}
    assert red == expected
    assert any(words in text_of(found[name]) for name in red)


@pytest.mark.parametrize("name", [None, *ILL])
def test_every_question_yields_one_measured(name):
    log = healthy() if name is None else broken(ILL[name][0])
    known = {**RUN, "gradient_accumulation_steps": 2}
    for question, result in answers(log, **known).items():
        assert result.status is not Status.ERROR, (question, result.reason)
        assert result.message or result.status is Status.SKIP, question


def test_a_warm_up_that_outlasts_the_run_is_found_without_a_logged_rate():
    log = log_of({"step": 1, "loss": 5.8}, {"step": 2, "loss": 5.7})
    result = answers(log, **{**RUN, "warmup_steps": 300})["schedule.peak_is_reached"]
    assert result.status is Status.FAIL
    assert (
        result.message == "the run has 300 steps and 300 of warm-up; its log has no learning_rate"
    )
    result = answers(log, **RUN)["schedule.peak_is_reached"]
    assert result.status is Status.PASS


def test_the_pace_of_the_schedule_is_named():
    found = answers(broken(ILL["stepped four times"][0]), **RUN, gradient_accumulation_steps=4)
    cause = found["schedule.learning_rate_follows"].findings[0].cause
    assert "stepped 4 times per step: gradient_accumulation_steps = 4" in cause


def test_a_healthy_log():
    found = answers(healthy(), **RUN)
    assert {r.status for n, r in found.items() if n != "loss.matches_reference"} == {Status.PASS}
    assert "below" not in text_of(found["loss.initial_is_uninformed"])


def test_a_head_that_knows_something_is_told_and_passes():
    result = answers(log_of({"step": 1, "loss": 0.47}), num_labels=280)[
        "loss.initial_is_uninformed"
    ]
    assert result.status is Status.PASS
    assert "already knows something, or the loss is divided once too often" in result.message


@pytest.mark.parametrize("reads_after", [0, 1])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup", "polynomial"])
def test_a_rate_read_before_or_after_the_step_and_rounded_is_right(kind, reads_after):
    if kind == "polynomial":
        pytest.importorskip("transformers")
    share = share_of_peak(kind, 30, 300)
    rows = [
        {"step": k, "loss": 5.0 + k % 3, "rate_text": f"{rate:.3g}",
         "learning_rate": float(f"{rate:.3g}")}
        for k in range(1, 301)
        for rate in [1e-5 * share(k - 1 + reads_after)]
    ]  # fmt: skip
    known = {**RUN, "lr_scheduler_type": kind}
    result = answers(log_of(*rows), **known)["schedule.learning_rate_follows"]
    assert result.status is Status.PASS, text_of(result)


def test_training_loss_against_evaluation_loss():
    log = Log("evals")
    for k in range(1, 41):
        log.add(Entry("", step=k, loss=12 * (5.6 - k / 20)))
        if k % 10 == 0:
            log.add(Entry("", step=k, eval_loss=5.7 - k / 20))
    name = "loss.matches_reference"
    (finding,) = answers(log, gradient_accumulation_steps=12)[name].findings
    assert "likely accumulation x processes = 12" in finding.cause
    (finding,) = answers(log)[name].findings
    assert "is an inference" in finding.cause
    assert answers(log, gradient_accumulation_steps=1)[name].status is Status.PASS


@pytest.mark.parametrize(("classes", "spread"), [(2, 0.4), (2, 1.2), (10, 0.5), (280, 1.2)])
def test_the_fresh_loss_is_that_of_drawn_logits(classes, spread):
    rng = random.Random(0)
    rows = [[rng.gauss(0, spread) for _ in range(classes)] for _ in range(4_000)]
    losses = [math.log(sum(map(math.exp, row))) - row[0] for row in rows]
    mean = sum(losses) / len(losses)
    assert fresh_loss(classes, spread) == pytest.approx(mean, abs=4 * spread / math.sqrt(4_000))
    assert math.log(classes) <= fresh_loss(classes, spread) <= math.log(classes) + spread**2 / 2


def test_the_healthy_range():
    low, high = healthy_range(280, None)
    assert (f"{low:.1f}", f"{high:.1f}") == ("5.7", "6.3")
    low, high = healthy_range(280, 2560)
    assert low == high == pytest.approx(math.log(280) + 0.02**2 * 2560 / 2, abs=0.01)


def test_the_text_says_what_was_not_judged():
    report = ask(Case(log_of({"step": 1, "loss": 69.5}), Known()))
    text = render(report, width=100)
    assert "nothing found in the log, as far as 1 of 9 questions go" in text
    assert "--num-labels is not given" in " ".join(text.split())
    assert "exp(69.5)" in " ".join(text.split())
    assert "To judge more, give --num-labels." in text


def test_without_the_peak_nothing_is_said_of_it():
    message = answers(TABLE)["update.moves_the_right_ones"].message
    assert "13 steps at the highest rate in the log" in message
