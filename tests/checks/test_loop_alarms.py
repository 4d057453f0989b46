"""Runs of healthy pipelines that look odd, beside faults that look like them."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fixtures.controls import all_controls
from fixtures.faults import subclassed
from trainsanity.checks.loop.resume_equals_straight import resume_equals_straight
from trainsanity.measurements.runs.batch_hash import hash_of
from trainsanity.measurements.runs.resume import Ended, Resumed
from trainsanity.measurements.runs.rows_read import draws, rows_of, sources_noted
from trainsanity.measurements.runs.trace import Plan, Trace
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Finding, Severity, Status

CONTROLS = {control.id: control for control in all_controls()}
SMALL = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def pipeline(control, change=lambda trainer: trainer, **settings):
    return PipelineSpec(control, lambda: change(CONTROLS[control].build(**settings))).make()


# --- saving --------------------------------------------------------------------------------------


def test_a_decoder_is_asked_with_the_targets_before_each():
    assert run_one("TS903", pipeline("answers_by_a_decoder", **SMALL)).status is Status.PASS


def test_a_model_that_only_the_trainer_loads_is_left_out():
    result = run_one("TS903", pipeline("table_of_a_later_year"))
    assert result.status is Status.SKIP
    assert result.reason == "Prices is no PreTrainedModel: how it is loaded is not known"


def test_virtual_tokens_are_saved_without_their_model_and_learn_no_batch():
    from peft import PromptTuningConfig, get_peft_model

    from fixtures.controls.choices import _trainer
    from fixtures.field import _lm

    def prompted():
        tokenizer = _lm.tokenizer(None)
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        return _trainer(tokenizer, get_peft_model(_lm.pretrained(tokenizer), config))

    tuned = PipelineSpec("prompted", prompted).make()
    assert run_one("TS903", tuned).status is Status.PASS
    assert "virtual tokens alone" in run_one("TS901", tuned).reason


# --- choices -------------------------------------------------------------------------------------


def test_a_model_of_choices_is_given_all_of_a_row():
    judged = pipeline("endings_of_a_question")
    assert run_one("TS903", judged).status is Status.PASS
    # At first all endings are scored alike: the loss is flat, and the rate from it too high.
    learnt = run_one("TS901", judged)
    assert learnt.status is Status.PASS, learnt.findings


# --- evaluating ----------------------------------------------------------------------------------


def writing(trainer):
    """Evaluate, and leave a weight changed."""

    def evaluate(self, *args, **kwargs):
        found = super(type(self), self).evaluate(*args, **kwargs)
        with torch.no_grad():
            next(self.model.parameters()).mul_(1.001)
        return found

    return subclassed(trainer, evaluate=evaluate)


def switching_back(trainer):
    """Evaluate, and put the weights back to where they are trained."""

    def evaluate(self, *args, **kwargs):
        found = super(type(self), self).evaluate(*args, **kwargs)
        self.optimizer.train()
        return found

    return subclassed(trainer, evaluate=evaluate)


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda trainer: trainer, 0), (switching_back, 0), (writing, 1)],
    ids=["switches", "back", "writes"],
)
def test_an_optimizer_that_evaluates_at_other_weights(change, found):
    result = run_one("TS907", pipeline("weights_between_two_points", change))
    assert len(result.findings) == found, result.findings


# --- resuming ------------------------------------------------------------------------------------

PLAN = Plan(2, 4, 18)


def run(begin, batch, rows="rows {}", **changes):
    steps = range(begin, 4)
    return Trace(
        batches={k: [batch.format(k)] for k in steps},
        rows={k: [rows.format(k)] for k in steps},
        losses={k: [1.0] for k in steps},
        **changes,
    )


def judged(straight, fresh, **changes):
    *found, measured = resume_equals_straight(
        Resumed(PLAN, straight, Ended(trace=fresh), difference=0.5, **changes)
    )
    assert all(isinstance(one, Finding) for one in found)
    return found, measured


def test_batches_that_are_drawn_anew_from_the_same_rows_are_no_others():
    found, measured = judged(run(0, "one {}"), run(2, "other {}"), draws=True)
    assert not found
    assert "(the batches of 2 steps are drawn anew from the same rows)" in measured.message
    assert measured.observed["micro_batches"] == 0


@pytest.mark.parametrize(
    ("rows", "drawn", "says"),
    [
        ("others {}", True, "step 3 trains on other rows"),
        ("", True, "step 3 trains on other rows"),
        ("rows {}", False, "step 3 makes another batch of the same rows"),
        ("rows {}", None, "step 3 makes another batch of the same rows"),
    ],
    ids=["others", "unknown", "made", "unasked"],
)
def test_other_rows_stay_a_finding(rows, drawn, says):
    (finding,), _ = judged(run(0, "one {}"), run(2, "other {}", rows), draws=drawn)
    assert says in finding.headline


def test_rows_that_come_again_are_known_though_they_are_drawn_anew():
    fresh = run(2, "other {}")
    fresh.rows = {2: ["rows 0"], 3: ["rows 1"]}
    (finding,), _ = judged(run(0, "one {}"), fresh, draws=True)
    assert finding.headline == "after resuming, step 3 trains on the rows of step 1 once more"


def test_names_of_folders_are_no_states():
    built = {"name_or_path": "'/tmp/a'", "scale": "1.0", "mode": "'warm'"}

    def moment(**changes):
        return {"moment": {"settings": {**built, **changes}}}

    straight = run(0, "{}", built=built, **moment(mode="'hot'"))
    assert not judged(
        straight, run(2, "{}", **moment(name_or_path="'/tmp/b'", mode="'hot'")), noise=1
    )[0]
    for lost in ({"mode": "'warm'"}, {"mode": "'hot'", "scale": "2.0"}):
        (finding,), _ = judged(straight, run(2, "{}", **moment(**lost)))
        assert "attributes of modules differ" in finding.headline


def test_random_numbers_of_a_batch_that_is_read_ahead():
    def states(now):
        return {"moment": {"random numbers": {"torch": now}}}

    straight = run(0, "{}", saved={"torch": "saved"}, **states("ahead"))
    found, measured = judged(straight, run(2, "{}", **states("saved")))
    assert not found
    assert "(for batches that are read ahead random numbers are drawn anew)" in measured.message
    (finding,), _ = judged(straight, run(2, "{}", **states("new")))
    assert "random states differ" in finding.headline


def test_weights_that_the_library_does_not_load_are_a_warning():
    straight = run(0, "{}", moment={"weights": {"a": 1, "b": 2}})
    fresh = run(2, "{}", moment={"weights": {"a": 1, "b": 3}})
    for renamed, severity in (
        (["b", "c"], Severity.WARNING),
        (["a"], Severity.FAILURE),
        ([], Severity.FAILURE),
    ):
        (finding,), _ = judged(straight, fresh, renamed=renamed)
        assert finding.severity is severity
        assert finding.where == "b"


# --- which rows a batch was made of --------------------------------------------------------------


class Numbers(Dataset):
    def __init__(self, first=0):
        self.first = first

    def __len__(self):
        return 8

    def __getitem__(self, k):
        return {"x": torch.tensor([float(self.first + k)])}


class Flipped(Numbers):
    def __getitem__(self, k):
        return {"x": super().__getitem__(k)["x"] * (1 + torch.rand(1))}


class Stream(IterableDataset):
    def __iter__(self):
        return (Numbers()[k] for k in range(8))


def stacked(rows):
    return {"x": torch.stack([row["x"] for row in rows])}


def hidden(rows):
    return {"x": stacked(rows)["x"] * torch.rand(len(rows), 1)}


class OwnGenerator:
    def __init__(self):
        self.draw = random.Random(0)

    def __call__(self, rows):
        return {"x": stacked(rows)["x"] * self.draw.random()}


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, rows):
        self.calls += 1
        return {"x": stacked(rows)["x"] + self.calls}


@pytest.fixture(scope="module")
def bare():
    model = torch.nn.Linear(1, 1)
    return Pipeline.from_loop(
        model=model,
        train_dataset=Numbers(),
        data_collator=stacked,
        train_step=lambda batches: 0.0,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        per_device_train_batch_size=2,
    )


def read(pipeline, dataset, collate=stacked, **options):
    """The rows of each batch of two, and whether making the first one draws."""
    with sources_noted() as noted:
        names = [hash_of(made) for made in DataLoader(dataset, 2, collate_fn=collate, **options)]
    rows = rows_of(pipeline, dict(enumerate([name] for name in names)), noted)
    source = noted.get(names[0])
    return [one for (one,) in rows.values()], source and draws(pipeline, source)


@pytest.mark.parametrize(
    ("dataset", "collate", "drawn"),
    [
        (Numbers, stacked, False),
        (Flipped, stacked, True),
        (Numbers, hidden, True),
        (Numbers, OwnGenerator(), True),
        (Numbers, Counting(), False),
        (Stream, hidden, True),
    ],
    ids=["plain", "transform", "collator", "generator", "counter", "stream"],
)
def test_rows_are_the_same_whatever_is_drawn_while_they_are_read(bare, dataset, collate, drawn):
    once, draw = read(bare, dataset(), collate)
    again, _ = read(bare, dataset(), collate)
    assert once == again
    assert len({*once}) == 4
    assert all(once)
    assert draw is drawn


def test_rows_at_equal_places_of_other_data_are_others(bare):
    assert read(bare, Numbers(), hidden)[0] != read(bare, Numbers(1), hidden)[0]


def test_rows_of_workers_are_known_unless_they_are_a_stream(bare):
    alone, _ = read(bare, Numbers())
    assert read(bare, Numbers(), num_workers=1)[0] == alone
    assert read(bare, Stream(), num_workers=1) == ([""] * 4, None)
